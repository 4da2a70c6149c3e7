"""What policyctl drift --adopt does with the edits that it takes over: a patch, or a pull request."""

from __future__ import annotations

import os
import re
from pathlib import Path

from policyctl.ci import open_forge
from policyctl.ci.comments import edits_in, edits_marker
from policyctl.ci.forge import DRAFT, Forge, Proposed
from policyctl.cli.github_actions import repository_path
from policyctl.cli.session import Session
from policyctl.errors import Incomplete, PolicyctlError
from policyctl.load.adopt import Adoption, FileLayout
from policyctl.load.git import repository_top
from policyctl.load.git.checkout import default_branch, head
from policyctl.load.git.revision import Revision
from policyctl.load.source import write_atomically
from policyctl.policy.document import digest
from policyctl.policy.names import canonical
from policyctl.reconcile.drift import Adopter, FoundDrift, adoption_review, digest_after
from policyctl.report.drift import adoption_markdown, adoption_text, patch_text
from policyctl.report.format import count
from policyctl.report.markdown import foreign_texts, naming
from policyctl.report.plan_items import Room
from policyctl.report.plan_markdown import listed_lines, plan_markdown
from policyctl.report.plan_view import PlanView

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
    before = {repository_path(str(path)): before for path, (before, _) in done.files.items()}
    then = Revision(repository_top(directory.resolve()) or directory, commit)
    entries = then.entries([*before])
    contents = then.contents([entry for entry in entries if entry.kind == "file"])
    texts = {path: text.replace("\r\n", "\n").encode() for path, text in before.items() if text is not None}
    held = {entry.path: contents.get(entry.path, b"").replace(b"\r\n", b"\n") for entry in entries}
    return texts == held
