"""The formats of a plan. Each is one function of the reviewed plan, so that one run can leave several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from policyctl.core.guards import Review
from policyctl.report.plan_json import plan_json
from policyctl.report.plan_text import plan_text
from policyctl.report.style import Style

Form = Literal["text", "json", "html"]
FORMS: tuple[Form, ...] = get_args(Form)


@dataclass(frozen=True, slots=True)
class Subject:
    """A plan to show: reviewed, its remote as the user wrote it, and whether all of it is wanted."""

    review: Review
    remote: str
    verbose: bool = False


def render(form: Form, subject: Subject, style: Style = Style()) -> str:
    """The plan in one format; `style` colours the text of a terminal."""
    if form == "json":
        return plan_json(subject.review)
    if form == "html":
        from policyctl.report.plan_html import plan_html  # the page's libraries are loaded for those who want a page

        return plan_html(subject.review, subject.remote)
    return plan_text(subject.review, subject.remote, style, verbose=subject.verbose)
