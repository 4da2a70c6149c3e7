"""policyctl ci comment, overrides and drift: a plan, shown on a pull request or in an issue, and what people answer there."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import click

from policyctl.ci import open_forge
from policyctl.ci.comments import MARKER, approval_in, comment_marker, comment_text, is_in, is_of, outdated, shown_in
from policyctl.ci.forge import Forge, NotAllowed, Remark
from policyctl.cli.console import Console, repository_path
from policyctl.cli.environments import with_environments
from policyctl.cli.options import Options, with_options
from policyctl.cli.selection import MOST, asks, commands_in, parse_overrides, write_overrides
from policyctl.errors import PolicyctlError, UsageError
from policyctl.load.environment import EnvironmentFilter
from policyctl.load.source import read_bounded
from policyctl.load.urls import is_git
from policyctl.plan.approval import NONE, Approvable
from policyctl.plan.fleet import read_plans
from policyctl.plan.saved_plan import MAX_BYTES, read_plan
from policyctl.plan.settings import Override
from policyctl.report.format import count

MAX_PAGE = 1024 * 1024  # bytes of a plan's page


def with_page(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command PAGE and --plan, two files about one plan."""
    file = click.Path(path_type=Path, dir_okay=False)
    plan = click.option("--plan", "planfile", type=file, required=True, metavar="FILE", help="The plan that plan --out saved.")
    return click.argument("page", type=file)(plan(function))


class ShownPlans(NamedTuple):
    """What a page shows: the `plan`, or the plans of several environments (`environment` is then which), as something that may
    be approved; how many `changes`, whether all was compared (`whole`), and whether
    with a git revision."""

    plan: Approvable
    environment: str
    digest: str
    changes: int
    whole: bool
    title: str
    against_git: bool


def read_plans_of(text: str, file: str) -> ShownPlans:
    """The plan, or the plans of several environments, that plan --out saved. Raises PolicyctlError for any other text."""
    if (fleet := read_plans(text, file)) is not None:
        some = [one for one in fleet.results if one.changes]
        does = "environment does" if len(some) == 1 else "environments do"
        title = f"policyctl: {len(some):,} {does} not match the files"
        git = any(is_git(one.remote) for one in fleet.results)
        return ShownPlans(fleet, fleet.selection, fleet.shown, fleet.changes, fleet.whole, title, git)
    plan = read_plan(text, file)
    title = f"policyctl: {plan.environment} does not match the files"
    whole, git = plan.counts.whole, is_git(plan.remote)
    return ShownPlans(plan, plan.environment, plan.digest, len(plan.changes), whole, title, git)


def read_page(page: Path, planfile: Path, directory: str) -> tuple[str, ShownPlans]:
    """A plan's page and what it shows. Raises PolicyctlError when either cannot be read or is committed, or when the page
    does not show the plan, or shows another directory (a path from the repository's top).

    Only markdown is accepted: in other formats names and descriptions could act as markup, and mention people.
    """
    for path in (page, planfile):
        _raise_if_committed(path)
    text = _text(page, MAX_PAGE)
    if not text.startswith(MARKER):
        raise PolicyctlError(f"{page} is not a plan as markdown; write it with plan --report markdown={page}")
    plan = read_plans_of(_text(planfile, MAX_BYTES), str(planfile))
    shown = shown_in(text)
    if shown is None or shown.digest != plan.digest:
        other = "no plan" if shown is None else shown.digest
        raise PolicyctlError(
            f"{page} shows {other}, and {planfile} is {plan.digest}; "
            f"write both in one run of plan --out {planfile} --report markdown={page}"
        )
    if not text.startswith(comment_marker(plan.environment, directory) + "\n"):
        where = "all environments" if plan.environment == "*" else f"environment {plan.environment}"
        raise PolicyctlError(f"{page} is not for {where} and directory {directory}; use the same --dir")
    return text, plan


def _raise_if_committed(path: Path) -> None:
    """Raise PolicyctlError for a file in the checked-out commit: a branch could contain any page with any plan."""
    from policyctl.load.git.checkout import is_committed  # imports subprocess

    if is_committed(path):
        raise PolicyctlError(
            f"{path} is in the checked-out commit, so it may not be what plan wrote; "
            "delete it there, and let plan write outside the checkout ($RUNNER_TEMP)"
        )


def _text(path: Path, most: int) -> str:
    try:
        return read_bounded(path, most).decode()
    except OSError as error:
        raise PolicyctlError(f"{path} cannot be read: {error.strerror}; did plan write it?") from None
    except UnicodeDecodeError:
        raise PolicyctlError(f"{path} is not text") from None


COMMENT_EPILOG = """\b
Example:
  policyctl plan --base origin/main --out plan.json --report markdown=plan.md
  policyctl ci comment plan.md --plan plan.json"""


@click.command("comment", epilog=COMMENT_EPILOG)
@with_page
@with_options("dir", "env", "verbose")
@with_environments
def comment(options: Options, page: Path, planfile: Path, chosen: EnvironmentFilter) -> int:
    """Show a plan, or the plans of several environments, as a comment on the pull request that this run is for.

    PAGE is what plan --report markdown=PAGE wrote, with the plan in --plan; it is an error if they show different plans, or if
    the branch contains them. Each environment, or selection of several, and directory has one comment, which is updated until
    the pull request is merged. If plan has written no files, the comment shows that, so that an old plan is not mistaken for
    that of the newest commit. A token without the permission to comment, or a merge queue, is not an error.
    """
    console, environment = Console(options), chosen.text if chosen.several else options.environment
    try:
        with open_forge(os.environ) as forge:
            if forge is None:
                console.say("no comment without a token; the plan is in the step summary and log")
            elif forge.queued:
                console.say("no pull request to comment on: this run is for a merge queue; the plan is in its summary")
            elif forge.is_merged():
                console.say("the pull request is already merged, so the comment stays as it was approved")
            elif page.exists() and planfile.exists():
                _show(forge, options, environment, page, planfile)
            else:
                _outdate(forge, environment, options)
    except NotAllowed as error:
        console.say(f"no comment was written, the plan is in the step summary and log: {error}")
    return 0


def _show(forge: Forge, options: Options, environment: str | None, page: Path, planfile: Path) -> None:
    try:
        text, found = read_page(page, planfile, repository_path(str(options.dir)))
    except PolicyctlError:
        _outdate(forge, environment, options)
        raise
    # If two runs at once have made two comments, approvals are read from the last one.
    old = next((one for one in reversed(forge.comments()) if is_of(one.body, text)), None)
    why = _why_not_approving(forge, options, text)
    forge.comment(comment_text(text, found.plan, forge.link, forge.longest, forge.proposal, why), old)


def _why_not_approving(forge: Forge, options: Options, page: str) -> str:
    """Why a merge approves nothing, whatever the page shows; empty when it does.

    The plan must be of the pull request's newest commit, or of the merge of it, and show the settings that change.
    """
    shown = shown_in(page)
    if shown is None or shown.approves == NONE:
        return ""
    if shown.terms is None:
        return "the plan was made without --base, so it does not show which settings change"
    if forge.proposal is None:
        return "the run does not know the pull request's newest commit and its target branch"
    from policyctl.cli.ci.merges import why_behind  # these import subprocess
    from policyctl.load.base_config import referred_paths
    from policyctl.load.discovery import find_config, load_config
    from policyctl.load.git import repository_top
    from policyctl.load.git.checkout import checked_out

    if forge.proposal.head not in checked_out(options.dir):
        return f"the checkout is neither the pull request's commit {forge.proposal.head[:12]} nor a merge of it"
    top = repository_top(options.dir.absolute())
    referred = () if top is None else referred_paths(top.resolve(), load_config(find_config(options.dir)))
    return why_behind(forge, repository_path(str(options.dir)), referred, forge.proposal.into)


def _outdate(forge: Forge, environment: str | None, options: Options) -> None:
    """Mark the comments about the directory as outdated: those of the environment, or of the selection, or without one all,
    because the default environment is not known when plan did not read the configuration. An environment without a comment
    gets one: there its first apply is noted, if it is new."""
    directory = repository_path(str(options.dir))
    found = [one for one in forge.comments() if is_in(one.body, environment, directory)]
    for old in found:
        forge.comment(outdated(old.body, forge.link), old)
    if environment is not None and not found:
        forge.comment(outdated(comment_marker(environment, directory), forge.link), None)


DRIFT_EPILOG = """\b
Example:
  policyctl plan --out plan.json --report markdown=plan.md
  policyctl ci drift plan.md --plan plan.json"""


@click.command("drift", epilog=DRIFT_EPILOG)
@with_page
@with_options("dir", "verbose")
def drift(options: Options, page: Path, planfile: Path) -> int:
    """Keep one open issue while a plan has changes: open it, update it, close it when the plan is empty.

    It also stays open when the plan is empty because it was refused, because rows of the remote could not be compared, or
    because an environment is suspended.
    """
    console = Console(options)
    text, found = read_page(page, planfile, repository_path(str(options.dir)))
    with open_forge(os.environ) as forge:
        if forge is None:
            raise PolicyctlError("opening an issue needs a token; set GITHUB_TOKEN or GITLAB_TOKEN")
        if done := _keep(forge, text, found):
            console.say(done)
    return 0


def _keep(forge: Forge, text: str, found: ShownPlans) -> str | None:
    """Make the issue match the plan. Returns what was done, or None when nothing was."""
    old = next((one for one in forge.issues() if is_of(one.body, text)), None)
    if found.changes:
        forge.issue(found.title, comment_text(text, found.plan, forge.link, forge.longest), old)
        return "the issue was updated" if old else "an issue was opened"
    if old is None:
        return None
    stopped = not found.against_git and (shown_in(text) or (NONE, NONE))[1] == NONE
    if stopped or not found.whole:
        return "the issue stays open: the plan has no changes, but was stopped, or not all could be compared or is suspended"
    forge.close_thread(old)
    return "the issue was closed"


_MOST_PEOPLE = 50  # whose permission to approve is asked for
_ALONE = "such a line needs a paragraph of its own, outside quotes and blocks of code, and no HTML before it"

OVERRIDES_EPILOG = """\b
Example:
  policyctl ci overrides --out overrides.json && policyctl plan --overrides overrides.json

\b
A comment that allows something, on a line of its own:
  /policyctl allow --max-removes 12 --allow-guard max_traffic_shift=chat because the old models are gone"""


@click.command("overrides", epilog=OVERRIDES_EPILOG)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="The file to write, for plan --overrides.",
)
@with_options("dir", "env", "verbose")
@with_environments
def overrides(options: Options, out: Path, chosen: EnvironmentFilter) -> int:
    """Write a file of the overrides that people allow for the plan of this pull request.

    A comment counts if its author may approve the pull request: they may write to the repository and did not open the pull
    request. It counts for the commit that was the newest when it was written, and must be repeated for a later one. Nothing in
    the branch itself counts. A comment that was edited does not count, since others may edit it: write a new one. In a merge
    queue, the overrides in the comment with the plan count.
    """
    console = Console(options)
    found: list[Override] = []
    try:
        with open_forge(os.environ) as forge:
            if forge is None:
                console.say("without a token no comment is read, so nothing is overridden")
            elif forge.queued:
                found = _shown(forge, chosen.text if chosen.several else options.environment, options)
            else:
                found = _allowed(forge, console)
    except NotAllowed as error:
        console.say(f"the comments cannot be read, so nothing is overridden: {error}")
    if len(found) > MOST:
        raise UsageError(f"{len(found)} settings are overridden; at most {MOST} can be shown, so split the change")
    write_overrides(out, found)
    console.say(f"{count(len(found), 'override')} by people who may approve: {', '.join(one.text for one in found) or 'none'}")
    return 0


def _shown(forge: Forge, environment: str | None, options: Options) -> list[Override]:
    """The overrides in the comment with the plan."""
    bodies = [one.body for one in forge.comments()]
    approval = approval_in(bodies, environment, repository_path(str(options.dir)))
    return list(approval.overrides) if approval else []


def _allowed(forge: Forge, console: Console) -> list[Override]:
    found: dict[str, Override] = {}
    everything = forge.remarks()
    for comment in everything:
        if asks(comment.text) and not commands_in(comment.text):
            console.say(f"what {comment.who} writes of /policyctl allow does not count: {_ALONE}")
    asked = [(comment, commands) for comment in everything if (commands := commands_in(comment.text))]
    since = _since(forge, console) if asked else None
    known = dict[str, bool]()  # whether people may approve: comments may be many, and each question is a request
    for comment, commands in asked if since is not None else ():
        if why := _why_not(comment, since):
            console.say(f"what {comment.who} allows does not count: {why}")
            continue
        if comment.who not in known and len(known) == _MOST_PEOPLE:
            console.say(
                f"what {comment.who} allows does not count: {_MOST_PEOPLE} others allow something; delete what is not meant"
            )
            continue
        if comment.who not in known:
            known[comment.who] = forge.may_approve(comment)
        if not known[comment.who]:
            console.say(f"what {comment.who} allows does not count: they opened the pull request, or may not write here")
            continue
        for text in commands:
            try:
                found.update((one.text, one) for one in parse_overrides(text, comment.who))
            except UsageError as error:
                console.say(f"what {comment.who} allows does not count: {error}")
    return list(found.values())


def _why_not(comment: Remark, since: datetime | None) -> str | None:
    """Why a comment does not count for the commit that is the newest since then; None if it does."""
    if comment.when is None or since is None or comment.when <= since:
        return f"{'; '.join(commands_in(comment.text))!r} was given for an earlier commit; repeat it"
    # People who may write may edit what others wrote.
    return (
        "the comment was edited, maybe by others (on GitLab a reaction counts too); write a new one" if comment.edited else None
    )


def _since(forge: Forge, console: Console) -> datetime | None:
    """The time from which comments are about this commit; None, with a message, when that is not known."""
    try:
        found = forge.since()
    except NotAllowed as error:
        console.say(
            f"the run or the pushes cannot be read, so it is not known which commit a comment is about: {error} (on GitHub the "
            "job needs the permissions actions: read and contents: read)"
        )
        return None
    if found is None:
        console.say("this is not known to be the newest commit of the pull request; the run for that one reads the comments")
    return found
