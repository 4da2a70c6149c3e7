"""Whether a policy that no file names is gone: only where the directory that git knows was read, all of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from policyctl.core.guards import Review
from policyctl.load.unread import Place, Unread, listed


def why_kept(unread: Unread) -> str | None:
    """Why nothing shows that a policy is gone, since git has files that the disk lacks or cannot be asked; else None."""
    if unread.unasked:
        return f"git cannot be asked whether files are missing: {unread.unasked}"
    if unread.gaps:
        remedies = "; ".join(dict.fromkeys(f"{gap.why}: {gap.remedy}" for gap in unread.gaps[:3]))
        return f"git has files that are not on this disk: {listed(unread.paths)} ({remedies})"
    return None


def hold_removals(review: Review, gone: Sequence[str], kept: str | None, unread: Unread) -> Review:
    """The review of a plan, with a refusal where these policies would be removed but for `kept`, and with notes about those
    that stand somewhere all the same."""
    refusals = [f"{listed(gone)} may not be gone, so nothing is removed: {kept}"] if gone and kept else []
    notes = _notes({name: place for name in gone if (place := unread.where(name))})
    return replace(review, refusals=(*review.refusals, *refusals), notes=(*review.notes, *notes))


def _notes(places: Mapping[str, Place]) -> Iterator[str]:
    """A note for each reason why policies are not read, so that thousands do not make thousands."""
    by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for name, place in places.items():
        by_reason[place.why].append(name)
    for why, names in by_reason.items():
        if len(names) == 1:
            yield f"no file that is read has {names[0]}, but {places[names[0]]}"
        else:
            files = dict.fromkeys(places[name].file for name in names)
            yield f"no file that is read has {listed(names)}, but others have them: {listed(files)} ({why})"


def note_untracked(review: Review, unread: Unread) -> Review:
    """The review, with a note of the files that were read and that git does not have, so that nobody reviewed them."""
    files = unread.untracked()
    note = f"git does not have all files that were read (untracked or ignored), so no review shows them: {listed(files)}"
    return replace(review, notes=(*review.notes, note)) if files else review
