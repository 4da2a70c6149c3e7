"""The beginning of a plan, in every format, is what a careful reader would report of it.

`POLICYCTL_WRITE_GOLDEN=1 pytest tests/report` writes the file anew; read the difference before you commit it.
"""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

from policyctl.plan.safety import Review
from policyctl.report.format import Style
from policyctl.report.plan_html import plan_html
from policyctl.report.plan_markdown import plan_markdown
from policyctl.report.plan_text import plan_text
from policyctl.report.plan_view import PlanView
from tests.report.golden_files import same
from tests.report.two_minutes import PLANS

HEAD = 5  # lines


def beginning(review: Review) -> str:
    """The first lines of each format, without what is empty or not shown."""
    subject = PlanView(review, "local")
    formats = {
        "text": plan_text(review, "local", Style()).splitlines(),
        "markdown": [line for line in plan_markdown(subject).splitlines() if not line.startswith("<!--")],
        "page": page_lines(plan_html(subject)),
    }
    parts = []
    for form, lines in formats.items():
        shown = [line.rstrip() for line in lines if line.strip()][:HEAD]
        parts.append("\n".join([f"== {form}", *shown]))
    return "\n".join(parts) + "\n"


def page_lines(page: str) -> list[str]:
    """What the top of the page shows, a line for each block."""
    top = page[page.index("<header>") : page.index("</header>")]
    blocks = re.split(r"</(?:h1|ul|div)>|<br>", re.sub(r"</?(?:a|b)\b[^>]*>", "", top))
    return [" ".join(unescape(re.sub(r"<[^>]+>", " ", block)).split()) for block in blocks]


@pytest.mark.parametrize("case", PLANS)
def test_the_first_lines_of_a_plan(case: str) -> None:
    same(Path("two-minutes") / f"{case.replace(' ', '-')}.txt", beginning(PLANS[case]))
