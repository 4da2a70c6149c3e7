"""The formats of a plan. Each is one function of the reviewed plan, so that one run can leave several."""

from __future__ import annotations

from typing import Literal, get_args

from policyctl.report.plan_json import plan_json
from policyctl.report.plan_markdown import plan_markdown
from policyctl.report.plan_text import plan_text
from policyctl.report.style import Style
from policyctl.report.subject import Subject

Form = Literal["text", "json", "markdown"]
FORMS: tuple[Form, ...] = get_args(Form)


def render(form: Form, subject: Subject, style: Style = Style()) -> str:
    """The plan in one format; `style` colours the text of a terminal."""
    if form == "json":
        return plan_json(subject.review)
    if form == "markdown":
        return plan_markdown(subject)
    return plan_text(subject.review, subject.remote, style, verbose=subject.verbose)
