"""policyctl drift and pull: what the files lack of what is live, or have otherwise, and taking it over into them.

drift shows who moved what, and with --adopt writes the remote's edits as a patch or a pull request; pull writes what is live as
files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from policyctl.cli.console import Console, repository_path
from policyctl.cli.environments import Pace, with_environments, with_pace
from policyctl.cli.options import NAMES, Options, audit_option, complete_names, with_form, with_options
from policyctl.cli.selection import Overrides, raise_if_idle
from policyctl.cli.session import DirectoryFiles, OpenedDirectory, Session, open_session
from policyctl.errors import Incomplete, PolicyctlError, UsageError
from policyctl.load.adopt import Adoption, FileLayout, Pull, leave_contradictions, plan_pull
from policyctl.load.directory import Loaded
from policyctl.load.environment import EnvironmentFilter
from policyctl.load.git import repository_top
from policyctl.load.source import make_folder, write_atomically
from policyctl.load.urls import is_git
from policyctl.plan.drift import DriftReport
from policyctl.plan.fleet import EnvironmentResult
from policyctl.plan.plan import Plan, Selection
from policyctl.policy.document import digest
from policyctl.policy.live import LiveRows
from policyctl.policy.names import MODEL_PREFIX, canonical, counted, kind_of
from policyctl.reconcile.drift import Adopter, Evidence, FoundDrift, adoption_review, digest_after, drift_of
from policyctl.reconcile.observe import observe
from policyctl.reconcile.plan import KnownModels, plan_directory
from policyctl.remote import Reader
from policyctl.report.drift import (
    adoption_markdown,
    adoption_text,
    drift_data,
    drift_json,
    drift_markdown,
    drift_text,
    drifts_text,
    patch_text,
    without_writer,
)
from policyctl.report.format import count
from policyctl.report.markdown import foreign_texts, naming
from policyctl.report.plan_items import Room
from policyctl.report.policies import pull_text

if TYPE_CHECKING:
    from policyctl.ci.forge import Forge, Proposed
    from policyctl.cli.fleet import Fleet
    from policyctl.reconcile.audit import AuditRecord

DRIFT_EPILOG = """\b
Example:
  policyctl drift
  policyctl drift anygem --env prod --audit audit.jsonl
  policyctl drift --all --format markdown >> "$GITHUB_STEP_SUMMARY"
  policyctl drift --adopt --patch adopt.patch && git apply adopt.patch"""


@click.command("drift", epilog=DRIFT_EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_names)
@audit_option("What apply --audit adds to, a file or a PostgreSQL database; what it has is certain, and wins over Git history.")
@with_form("text", "json", "markdown")
@click.option(
    "--detailed-exitcode", is_flag=True, help="Exit with 2 when something differs; with --adopt when an edit is taken over."
)
@click.option("--parallelism", type=click.IntRange(1, 64), default=4, show_default=True, help="Environments at once.")
@click.option("--adopt", is_flag=True, help="Take what the remote moved over into the files, as a patch.")
@click.option(
    "--patch",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Where to write the patch, for git apply; - is standard output.",
)
@click.option("--pr", "request", is_flag=True, help="Open or update a pull request with the edits (in CI of GitHub or GitLab).")
@click.option("--shared", is_flag=True, help="Also adopt into files that are for other environments too.")
@with_options(*NAMES)
@with_environments
@with_pace
def drift(
    options: Options,
    names: tuple[str, ...],
    record: AuditRecord | None,
    form: str,
    detailed_exitcode: bool,
    parallelism: int,
    adopt: bool,
    patch: Path | None,
    request: bool,
    shared: bool,
    chosen: EnvironmentFilter,
    pace: Pace,
) -> int:
    """Show for each policy that differs who moved: Git (the change is not applied yet), the remote (it was edited by hand or
    by another tool), or both, field by field. Nothing is written. NAME, which may be a glob, selects some policies.

    This rests on Git history, where what is live is searched among all versions that the files had, and on the audit record,
    if one is given. The output shows which. Git history needs the whole clone, not a shallow one.

    With --adopt what the remote moved becomes a patch of the files: each value is changed where it is, comments and templates
    stay. A policy that is named takes the remote's side of a conflict too.
    """
    selection = Selection(only=names)
    _check_adoption(adopt, patch, shared, request, form, chosen)
    if chosen.several:
        from policyctl.cli.fleet import open_fleet

        fleet = open_fleet(options, chosen, selection, deep=False)
        return _several(fleet, pace._replace(parallelism=parallelism), record, form, detailed=detailed_exitcode)
    session = open_session(options)
    found = drift_in(session, selection, Evidence(options.dir, session.config, record))
    if adopt:
        done = adopt_edits(found, session, names, patch, shared=shared, request=request)
        return 2 if detailed_exitcode and done.files else 0
    _show(found.report, session, form)
    if found.report.blocked:
        raise Incomplete(_blocked(found.report))
    return 2 if detailed_exitcode and found.report.drifts else 0


def _show(report: DriftReport, session: Session, form: str) -> None:
    if form == "text":
        shown = drift_text(report, session.remote, session.console.out_style)
    else:
        rendered = drift_json if form == "json" else drift_markdown
        shown = rendered([_result(report, session)], {report.environment: report})
    session.console.result(shown)


def _check_adoption(adopt: bool, patch: Path | None, shared: bool, request: bool, form: str, chosen: EnvironmentFilter) -> None:
    """Raise UsageError for options of an adoption that do not go together."""
    if adopt and patch is None and not request:
        raise UsageError("--adopt needs --patch FILE or --pr")
    given = [option for option, is_given in (("--patch", patch), ("--pr", request), ("--shared", shared)) if is_given]
    if not adopt and given:
        raise UsageError(f"{given[0]} needs --adopt")
    if adopt and chosen.several:
        raise UsageError("--adopt is for one environment; choose one with --env")
    if adopt and form != "text":
        raise UsageError(f"--format {form} is not for --adopt, which writes a patch")


def drift_in(session: Session, selection: Selection, evidence: Evidence) -> FoundDrift:
    """Who moved what in the session's environment. Raises UsageError for a git revision, which does not move, and otherwise
    as a plan does."""
    if is_git(session.url):
        raise UsageError(f"drift compares the files with a remote, and {session.remote} is a git revision; use plan or diff")
    files, loaded, unread = session.read()
    environment = session.environment
    with session.reader() as reader, session.console.progress.of("Comparing", "live policy") as step:
        models = KnownModels(reader, loaded.models)
        review = plan_directory(
            reader, loaded.desired, environment, environment.settings, selection, loaded.declared, step, unread, models=models
        )
        raise_if_idle(selection, Overrides(), loaded.names, review.live, only="")
        spell = models.speller(review.live | loaded.names)
        drifts = evidence.judge(review.plan.changes, environment, review, spell)
    return FoundDrift(drift_of(review, drifts, evidence), review, files, loaded, unread, spell)


def _result(report: DriftReport, session: Session) -> EnvironmentResult:
    """The result for a run over environments; equal drifts have an equal hash."""
    counts: dict[str, int] = {moved: number for moved, number in report.totals.items() if number}
    same = digest([drift_data(without_writer(one)) for one in report.drifts])
    found = EnvironmentResult(report.environment, "planned", remote=session.remote, alike=same, counts=counts)
    if report.blocked:
        return replace(found, status="failed", code=Incomplete.exit_code, reason=_blocked(report))
    return found


def _blocked(report: DriftReport) -> str:
    return f"rows on the remote block {', '.join(name for name, _ in report.blocked)}"


def _several(fleet: Fleet, pace: Pace, audit: AuditRecord | None, form: str, *, detailed: bool) -> int:
    """The drift of several environments, in one report."""
    from policyctl.cli.fleet import run_fleet

    evidence, reports = Evidence(fleet.options.dir, fleet.config, audit), dict[str, DriftReport]()

    def work(session: Session) -> EnvironmentResult:
        report = drift_in(session, fleet.selection, evidence).report
        reports[report.environment] = report
        return _result(report, session)

    found, console = run_fleet(fleet, "drift", work, pace), fleet.console
    if form == "json":
        console.result(drift_json(found.results, reports, found.left_out))
    elif form == "markdown":
        console.result(drift_markdown(found.results, reports))
    else:
        console.result(drifts_text(found, reports, console.out_style, verbose=console.verbose))
    return found.exit_code(detailed=detailed)


_PAGE = 30_000  # bytes of the plan in a pull request


def adopt_edits(
    found: FoundDrift, session: Session, names: tuple[str, ...], patch: Path | None, *, shared: bool, request: bool
) -> Adoption:
    """Take over what the remote moved, as a patch or as a pull request, and return what was taken over.

    `names` are what the user asked for. Raises Incomplete if something was left.
    """
    files, loaded = found.files, found.loaded
    layout = FileLayout(session.options.dir, files, loaded, found.unread, session.environment)
    named = frozenset(canonical(name) for name in names)
    adopter = Adopter(session.config, session.environment, files, loaded, layout, found.spell, named=named, shared=shared)
    done, console = adopter.take(found.report.drifts), session.console
    if patch is not None:
        text = patch_text(done.files, repository_top(session.options.dir.absolute()) or Path.cwd())
        if str(patch) == "-":
            console.result(text)
        elif text:
            write_atomically(patch, text)
    lines = adoption_text(done, console.err_style) or "nothing to adopt: the remote moved nothing\n"
    for line in lines.splitlines():
        console.say(line, painted=True)
    if request:
        console.say(_propose(found, session, done, sorted(named)))
    if done.left:
        raise Incomplete(f"{count(len(done.left), 'edit')} not adopted; see above")
    return done


def _propose(found: FoundDrift, session: Session, done: Adoption, named: list[str]) -> str:
    """Open, update or close the pull request of the environment and directory, and of what is `named`; what was done."""
    from policyctl.ci import open_forge
    from policyctl.ci.comments import edits_in, edits_marker

    directory, environment = repository_path(str(session.options.dir)), session.environment.name
    edits = {
        one.change.name: digest([one.change.name, one.change.before_digest()]).removeprefix("sha256:")[:12]
        for one in found.report.drifts
        if one.moved != "git"
    }
    files = {repository_path(str(path)): after for path, (_, after) in done.files.items()}
    taken = [edits[name] for name in done.documents if name in edits]
    fingerprint = digest([edits, files])  # of what the branch has too: the text describes it
    marker = edits_marker(environment, directory, fingerprint, taken)
    place = digest([environment, directory, *named]).removeprefix("sha256:")[:8]
    branch = f"policyctl/drift-{re.sub('[^A-Za-z0-9]+', '-', environment)}-{place}"
    with open_forge(os.environ) as forge:
        if forge is None:
            raise PolicyctlError("opening a pull request needs a token; set GITHUB_TOKEN or GITLAB_TOKEN")
        first = edits_marker(environment, directory)
        old = next((one for one in forge.requests(branch) if one.body.startswith(first)), None)
        if not done.files:
            if old is None:
                return "no pull request: there is nothing to adopt"
            if not edits_in(old.body).isdisjoint(edits.values()):
                return "the pull request stays as it is: nothing can be adopted now"
            forge.close_thread(old)
            return "the pull request was closed: there is nothing to adopt any more"
        what = _proposal(found, session, done, forge, marker)._replace(branch=branch)
        if what.into == branch:
            raise PolicyctlError(f"this run is for {branch}, which is the branch of the pull request; run it for another one")
        if old is None or not old.body.startswith(marker):
            forge.push(what)
        complaint = forge.request(what, old)
    done_so = "a pull request was opened" if old is None else "the pull request was updated"
    if complaint is None:
        return done_so
    return f"{done_so}, but it could not be made {'a draft' if what.draft else 'ready to merge'}: {complaint}"


def _proposal(found: FoundDrift, session: Session, done: Adoption, forge: Forge, marker: str) -> Proposed:
    """The pull request, without its branch. Raises PolicyctlError without a branch to merge into, or for files that are not as
    they were committed."""
    from policyctl.ci.forge import DRAFT, Proposed
    from policyctl.load.git.checkout import default_branch, head
    from policyctl.report.plan_markdown import listed_lines, plan_markdown
    from policyctl.report.plan_view import PlanView

    checkout, into = head(session.options.dir), forge.branch or default_branch(session.options.dir)
    if checkout is None or checkout.dirty or not _as_committed(session.options.dir, checkout.commit, done):
        raise PolicyctlError("the files are not as committed, so the pull request would have more than the edits; commit first")
    if into is None:
        raise PolicyctlError("it is not known which branch to merge into; run this for the branch, not for a pull request")
    judged = adoption_review(found, done, session.environment)
    page = plan_markdown(PlanView(judged, "the files", directory=repository_path(str(session.options.dir))), _PAGE)
    while page.startswith("<!--"):  # the markers of a comment, which is what approves
        page = page.partition("\n")[2]
    with naming((*foreign_texts(judged), *foreign_texts(found.review))):
        opening = marker + listed_lines(f"> [!CAUTION]\n> {DRAFT}", judged.refusals, Room(_PAGE), "> ")
        body = opening + adoption_markdown(found.report, done, page, digest_after(found, done))
    if len(body) > forge.longest:
        body = f"{opening}The edits are too many to show here; [the run]({forge.link}) shows them.\n"
    title = f"policyctl: adopt {count(len(done.documents), 'edit')} made on {session.environment.name}"
    files = {repository_path(str(path)): after for path, (_, after) in done.files.items()}
    created = frozenset(repository_path(str(path)) for path, (before, _) in done.files.items() if before is None)
    return Proposed("", checkout.commit, into, title, body, files, created, draft=bool(judged.refusals))


def _as_committed(directory: Path, commit: str, done: Adoption) -> bool:
    """Whether the files that the adoption edits, wherever they are, were so in a commit: all of their text is proposed."""
    from policyctl.load.git.revision import Revision

    before = {repository_path(str(path)): before for path, (before, _) in done.files.items()}
    then = Revision(repository_top(directory.resolve()) or directory, commit)
    entries = then.entries([*before])
    contents = then.contents([entry for entry in entries if entry.kind == "file"])
    texts = {path: text.replace("\r\n", "\n").encode() for path, text in before.items() if text is not None}
    held = {entry.path: contents.get(entry.path, b"").replace(b"\r\n", b"\n") for entry in entries}
    return texts == held


PULL_EPILOG = """\b
Example:
  policyctl pull
  policyctl pull --env prod --dir policies --overwrite
  policyctl pull --env dev --env prod"""


@click.command("pull", epilog=PULL_EPILOG)
@click.option("--overwrite", is_flag=True, help="Replace files that differ from what is live.")
@with_options(*NAMES)
@with_environments
def pull(options: Options, overwrite: bool, chosen: EnvironmentFilter) -> int:
    """Write every live policy in scope as a file, so that plan has nothing to change.

    Virtual models are written too, below models/, where policyctl.yaml has `manage: [policies, models]`, as init writes it;
    without a policyctl.yaml only policies are. No file holds a secret. A policy or model that is in a file already stays in
    that file, and files of what is not live are left alone. Exit code 5 means that something live does not match a file: it
    cannot be written as one, or its file differs.

    With several environments a file is written once, and only if it would be the same for all of them.
    """
    if chosen.several:
        return _pull_several(options, chosen, overwrite=overwrite)
    session = open_session(options)
    opened = _read_directory(session)
    with session.reader() as reader:
        pulled = _decided(session, opened, reader, overwrite=overwrite)
        _write_files(pulled.done.writes, options.dir, session.console)
        plan = _plan_again(session, reader, pulled) if pulled.matters else None
    session.console.result(pull_text(pulled.done, pulled.observed, plan, pulled.unmanaged, session.console.out_style))
    pulled.raise_if_incomplete()
    return 0


class _Planned(NamedTuple):
    """What pulling from one remote comes to. `loaded` is the directory as it was before, and `unmanaged` the number of virtual
    models that it does not manage."""

    done: Pull
    observed: LiveRows
    loaded: Loaded
    unmanaged: int

    @property
    def matters(self) -> bool:
        """Whether there is anything to compare afterwards."""
        return bool(self.done.writes or self.loaded.desired)

    def raise_if_incomplete(self) -> None:
        """Raise Incomplete when something live does not match a file."""
        if missing := (*self.done.kept, *self.done.left):
            raise Incomplete(f"{counted(map(kind_of, missing), 'live ')} not pulled; see above. Read the plan before you apply")


def _decided(session: Session, opened: OpenedDirectory, reader: Reader, *, overwrite: bool) -> _Planned:
    """Decide what to write for an environment. Nothing is written here."""
    settings, loaded = session.environment.settings, opened.loaded
    layout = FileLayout(session.options.dir, *opened, session.environment)
    with session.console.progress.of("Listing", "live policy") as step:
        observed = observe(reader, on_row=step)
    models = KnownModels(reader, loaded.models)
    spell = models.speller({*observed.live, *observed.obstacles(), *loaded.names})
    done = plan_pull(observed, layout, settings, spell, overwrite=overwrite)
    unmanaged = 0 if settings.models else sum(name.startswith(MODEL_PREFIX) for name in models.listed)
    return _Planned(done, observed, loaded, unmanaged)


def _pull_several(options: Options, chosen: EnvironmentFilter, *, overwrite: bool) -> int:
    """Read every environment, then write each file once, then plan every environment from the files as they are by then."""
    from policyctl.cli.fleet import look_at, open_fleet
    from policyctl.report.fleet import folded
    from policyctl.report.format import NONE_AFFECTED

    fleet = open_fleet(options, chosen, deep=False, lenient=True)
    fleet.files.raise_if_broken(fleet.config, fleet.names)
    console = fleet.console
    if not fleet.names:
        console.say(NONE_AFFECTED)
        return 0
    pulled: dict[str, _Planned] = {}
    texts: dict[str, str] = {}

    def read(session: Session) -> None:
        opened = _read_directory(session)
        with session.reader() as reader:
            pulled[session.environment.name] = _decided(session, opened, reader, overwrite=overwrite)

    def prove(session: Session) -> None:
        name = session.environment.name
        one = pulled[name]
        with session.reader() as reader:
            plan = _plan_again(session, reader, one) if one.matters else None
        texts[name] = pull_text(one.done, one.observed, plan, one.unmanaged, console.out_style)
        one.raise_if_incomplete()

    result = look_at(fleet, "pull", read)
    leave_contradictions({name: pulled[name].done for name in fleet.names if name in pulled})
    writes = {path: (path, text, new) for one in pulled.values() for path, text, new in one.done.writes}
    _write_files([*writes.values()], options.dir, console)
    files = DirectoryFiles(options, fleet.config, fleet.config.lint, lenient=True, deep=False, tests=False, several=True)
    after = replace(fleet, names=tuple(name for name in fleet.names if name in pulled), files=files)
    proved = {one.name: one for one in look_at(after, "pull", prove).results}
    result = result._replace(results=tuple(proved.get(one.name, one) for one in result.results))
    console.result(folded(result, texts, console.out_style))
    return result.exit_code()


def _read_directory(session: Session) -> OpenedDirectory:
    opened = session.read(lenient=True)
    opened.raise_if_errors()
    return opened


def _write_files(writes: Sequence[tuple[Path, str, bool]], directory: Path, console: Console) -> None:
    with console.progress.of("Writing", "file", len(writes)) as step:
        for path, text, _ in writes:
            make_folder(path.parent)
            write_atomically(path, text, inside=directory)
            step()


def _plan_again(session: Session, reader: Reader, pulled: _Planned) -> Plan:
    """The plan from the files as they were written and the remote read again."""
    _, loaded, unread = _read_directory(session)
    environment, desired = session.environment, loaded.desired
    models = KnownModels(reader, pulled.loaded.models)
    with session.console.progress.of("Comparing", "live policy") as step:
        review = plan_directory(
            reader, desired, environment, environment.settings, Selection(), on_row=step, unread=unread, models=models
        )
    return review.plan
