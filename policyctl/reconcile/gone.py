"""Whether a policy that no file names is gone: only where the directory that git knows was read, all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from policyctl.core.guards import Review
from policyctl.load.unread import Unread, listed


def why_kept(unread: Unread) -> str | None:
    """Why nothing shows that a policy is gone, since git has files that the disk lacks or cannot be asked; else None."""
    if unread.unasked:
        return f"git cannot be asked whether files are missing: {unread.unasked}"
    if unread.gaps:
        remedies = "; ".join(dict.fromkeys(f"{gap.why}: {gap.remedy}" for gap in unread.gaps[:3]))
        return f"git has files that are not on this disk: {listed(unread.paths)} ({remedies})"
    return None


def hold_removals(review: Review, gone: Sequence[str], kept: str | None, unread: Unread) -> Review:
    """The review of a plan, with a refusal where these policies would be removed but for `kept`, and with a note for each
    that stands somewhere all the same."""
    refusals = [f"{listed(gone)} may not be gone, so nothing is removed: {kept}"] if gone and kept else []
    places = {name: unread.where(name) for name in gone}
    notes = [f"no file that is read has {name}, but {place}" for name, place in places.items() if place]
    return replace(review, refusals=(*review.refusals, *refusals), notes=(*review.notes, *notes))


def note_untracked(review: Review, unread: Unread) -> Review:
    """The review, with a note of the files that were read and that git does not have, so that nobody reviewed them."""
    files = unread.untracked()
    note = f"git does not have all files that were read (untracked or ignored), so no review shows them: {listed(files)}"
    return replace(review, notes=(*review.notes, note)) if files else review
