"""What GitHub Actions understands: annotations, and the files for a step's summary and outputs.

The rules and limits are those of GitHub's documentation of workflow commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from policyctl.errors import Problem, Severity
from policyctl.plan.safety import Review
from policyctl.report.format import count, escape
from policyctl.report.markdown import block, prose
from policyctl.report.problems import problem_lines
from policyctl.report.terminal import Style
from policyctl.rules.catalogue import RULES

MOST = 10  # annotations of one type that GitHub shows of one step; it drops further ones in silence
SUMMARY_BYTES = 1024 * 1024  # that a step's summary may have; a longer one is not shown at all
_COMMANDS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "notice"}


def github_annotations(problems: Sequence[Problem], path_of: Callable[[str], str]) -> str:
    """A line for each problem, errors first, at most ten of a type; the rest is counted in one last annotation, and follows as
    text: the log of a step does not say where an annotation belongs, and has nothing of those that are not there.

    `path_of` gives a file's path from the repository's top, which is how GitHub finds it.
    """
    found = {severity: [problem for problem in problems if problem.severity == severity] for severity in _COMMANDS}
    over = any(len(some) > MOST for some in found.values())
    # The last annotation is a notice, and must itself be one of the ten.
    shown = {severity: some[: MOST - (over and severity == "info")] for severity, some in found.items()}
    lines = [_annotation(problem, path_of) for some in shown.values() for problem in some]
    if over:
        rest = {severity: some[len(shown[severity]) :] for severity, some in found.items()}
        said = ", ".join(count(len(some), f"further {_COMMANDS[severity]}") for severity, some in rest.items() if some)
        lines.append(f"::notice title=policyctl::{said} not shown here (the step's log lists what is left)")
        lines += problem_lines([problem for some in rest.values() for problem in some], Style())
    return "".join(f"{line}\n" for line in lines)


def alert(text: str) -> str:
    """One sentence that nobody overlooks, of less than a few thousand bytes."""
    return f"> [!CAUTION]\n> {prose(text)}\n\n"


def fenced(text: str, room: int = SUMMARY_BYTES) -> str:
    """Text in a block of code that nothing in the text can end, in at most `room` bytes."""
    lines = text.splitlines()
    frame = len(block("text", lines)) - len("\n".join(lines)) + 100
    kept = _fitting(lines, room - frame)
    if kept < len(lines):
        lines[kept:] = [f"… and {count(len(lines) - kept, 'further line')}; the step's log has all"]
    return block("text", lines) + "\n"


def step_outputs(review: Review, plan_file: str | None) -> str:
    """What later steps may ask: has_changes (true or false), counts, the digest, and the saved plan's path if there is one."""
    plan = review.plan
    values: dict[str, str] = {
        "has_changes": "true" if plan.changes else "false",
        **{str(action): str(number) for action, number in plan.totals.items()},
        "blocked": str(len(plan.blocked)),
        "refusals": str(len(review.refusals)),
        "settings": str(len(review.settings)),
        "failed_tests": str(len(review.failed_tests)),
        "digest": plan.digest,
    }
    if plan_file is not None:
        values["plan_path"] = plan_file
    return "".join(_output(name, value) for name, value in values.items())


def _annotation(problem: Problem, path_of: Callable[[str], str]) -> str:
    return f"::{_COMMANDS[problem.severity]} {','.join(_properties(problem, path_of))}::{_escaped(problem.message)}"


def _properties(problem: Problem, path_of: Callable[[str], str]) -> Iterator[str]:
    rule = RULES.get(problem.code)
    values = {
        "file": path_of(problem.mark.file),
        **({"line": str(problem.mark.line), "col": str(problem.mark.column)} if problem.mark.line else {}),
        "title": f"{problem.code} {rule.name}" if rule else problem.code,
    }
    for name, value in values.items():
        yield f"{name}={_escaped(value).replace(':', '%3A').replace(',', '%2C')}"


def _escaped(text: str) -> str:
    """One visible line in which nothing reads as an escape; `escape` leaves no line's end."""
    return escape(text).replace("%", "%25")


def _fitting(lines: Sequence[str], room: int) -> int:
    """How many of the first lines have at most `room` bytes together."""
    for number, line in enumerate(lines):
        room -= len(line.encode(errors="backslashreplace")) + 1
        if room < 0:
            return number
    return len(lines)


def _output(name: str, value: str) -> str:
    """`name=value`; a value of several lines stands between two lines that it does not have itself."""
    if "\n" not in value and "\r" not in value:
        return f"{name}={value}\n"
    delimiter = "END"
    while delimiter in value:
        delimiter += "_"
    return f"{name}<<{delimiter}\n{value}\n{delimiter}\n"
