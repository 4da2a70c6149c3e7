"""What every format of a plan shows, and the phrases that they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from policyctl.effect.gateway import ASSUMED
from policyctl.errors import NotKnown
from policyctl.plan.consumers import phrase
from policyctl.plan.diff import FieldChange, unknown_field_notes
from policyctl.plan.plan import Action, BlockedChange, Change, Plan
from policyctl.plan.safety import Review
from policyctl.plan.settings import Override
from policyctl.policy.document import Document, references
from policyctl.policy.names import counted
from policyctl.report.format import escape, position_name

ALSO = "also affected"
UNBOUND = "(managed elsewhere: this directory's guards do not apply to it)"
NOT_KNOWN = "the effect on traffic is not known"
_DECLARED = (
    "types and timeouts of models as this directory declares them now, before and after "
    "(--base REVISION takes those before from there)"
)
OVERRIDES_TITLE = "Overridden for this plan, and approved with it:"
RESTORED = "restoration: back to the policy as it was reviewed"
TESTS_TITLE = "Scenario tests fail:"
WARNINGS_TITLE = "Warnings about the changed policies:"
_SETTINGS_TITLE = "Safety settings change in policyctl.yaml; the old ones apply until the merge:"
_ADDRESSES_TITLE = (
    "Where the gateway sends requests, or its keys, change in files of models; the old ones apply until the merge:"
)
_BOTH_TITLE = "Safety settings, and where the gateway sends requests, change; the old ones apply until the merge:"


class Provenance(NamedTuple):
    """Where and when a page was made. What is not known is empty, and is not shown."""

    time: str = ""
    repository: str = ""
    branch: str = ""
    commit: str = ""
    pull_request: str = ""
    version: str = ""

    @property
    def rows(self) -> list[tuple[str, str]]:
        """What is known, each with its name."""
        names = ("Made", "Repository", "Branch", "Commit", "Pull request", "policyctl")
        return [(name, text) for name, text in zip(names, self, strict=True) if text]


NO_PROVENANCE = Provenance()


class PlanView(NamedTuple):
    """A plan to show: reviewed, its remote as the user wrote it, and whether all of it is wanted.

    `directory` is the policy directory, relative to the top of the repository; `artifacts` the URL of the CI run that keeps
    the saved files, if any; `provenance` where the page comes from.
    """

    review: Review
    remote: str
    verbose: bool = False
    directory: str = "policies"
    artifacts: str | None = None
    provenance: Provenance = NO_PROVENANCE


def all_notes(review: Review) -> list[str]:
    """The notes on the plan as a whole; first that it is only shown."""
    return [*([review.offline] if review.offline else []), *review.notes, *review.left_alone]


ROWS_TITLE = "Notes on rows of the remote:"


def notes_on_changes(review: Review) -> list[str]:
    """The notes that a change may rest on: all but those on rows that are left alone."""
    offline = [review.offline] if review.offline else []
    return [*unknown_field_notes(review.extras, position_name), *offline, *review.notes]


def notes_of(review: Review) -> list[str]:
    """What is worth knowing besides the changes, for people; first what is about what changes, as a page may have to cut."""
    return [*notes_on_changes(review), *review.left_alone]


def basis_of(review: Review) -> list[str]:
    """The assumptions behind a plan, shown once below it."""
    declared = review.declared
    by_one = declared.before is None and bool(declared.types or declared.timeouts)
    return [
        *([ASSUMED] if review.plan.policies else []),  # of models alone no traffic is worked out
        *([_DECLARED] if review.plan.policies and by_one else []),
        *([review.unchecked] if review.unchecked else []),
    ]


NOT_COMPARED = "Nothing to apply, but not everything could be compared"


def all_compared(review: Review) -> bool:
    """Whether the plan covers everything that the files manage: nothing was unreadable, blocked or refused."""
    return review.plan.counts.whole and not (review.plan.blocked or review.refusals or review.offline)


def settings_title(settings: Sequence[FieldChange]) -> str:
    """What comes above the settings that a branch changes; those of models are for the gateway."""
    kinds = {one.path.partition(".")[0] == "models" for one in settings}
    return _BOTH_TITLE if len(kinds) > 1 else _ADDRESSES_TITLE if True in kinds else _SETTINGS_TITLE


def manages_all(review: Review) -> bool:
    """Whether the files manage every live policy."""
    return not (review.plan.counts.unmanaged or review.plan.counts.outside_scope)


def rest_of(review: Review) -> list[tuple[int, str]]:
    """What there is besides the changes: counts greater than 0, each with its name."""
    plan, counts = review.plan, review.plan.counts
    rest = [
        (len(review.affected), ALSO),
        (review.unchanged, "unchanged"),
        (counts.unselected, "not selected"),
        (counts.unmanaged, "unmanaged"),
        (counts.outside_scope, "outside the scope"),
        (len(plan.blocked), "blocked"),
        (counts.unreadable, "unreadable"),
    ]
    return [(number, name) for number, name in rest if number]


def rest_text(review: Review) -> str:
    """The same in words; empty if there is nothing else."""
    about = {"unmanaged": " (live, in no file, not removed)", "unreadable": " (rows of the remote, see the notes)"}
    return ", ".join(f"{number:,} {name}{about.get(name, '')}" for number, name in rest_of(review))


def how_many(plan: Plan, action: Action) -> str:
    """How many changes of one action a plan has: `2`, and where models are among the changes `1 policy and 1 model`."""
    kinds = [change.kind for change in plan.changes if change.action == action]
    return counted(kinds) if plan.has_models and kinds else f"{len(kinds):,}"


def managed_text(review: Review) -> str:
    """`The policies that the files manage`; with models where these are managed too."""
    return f"The {'policies and models' if review.models else 'policies'} that the files manage"


def target_path(through: Sequence[str]) -> str:
    """The policies that lead to a change: `through virtual-policy/mid, virtual-policy/chat`."""
    return f"through {', '.join(map(escape, through))}"


def why_blocked(block: BlockedChange) -> str:
    """Why a policy is blocked, with the ids of the rows that block it."""
    return f"{block.reason} (ids {', '.join(block.ids)})" if block.ids else block.reason


def override_text(override: Override) -> str:
    """`--max-removes 12: the old models are gone (allowed by ana)`."""
    why = f": {override.reason}" if override.reason else ""
    return f"{override.text}{why}{f' (allowed by {override.by})' if override.by else ''}"


def used_by(name: str, review: Review, *, removed: bool = False) -> str:
    """`used by 3 agents (billing-bot, faq, sales)`; empty if no consumer is known, or none was read.

    What is `removed`, and was used only by policies that no longer target it, was used so until now.
    """
    if review.consumers is None:
        return ""
    text = phrase(review.consumers.uses.get(name, ()))
    gone = removed and name not in review.used and not review.consumers.holding(name)
    return f"until now {text}" if gone and text.startswith("used by") else text


_MODELS = 20  # of those that a policy leads to


def leads_to(document: Document, review: Review) -> str | None:
    """The models that a new policy leads to by way of others; None for one that targets models alone. Of a new model whether a
    live policy already targets it."""
    if document["name"] in review.awaited:
        return "live policies already target it"
    if not references(document) & review.policies.keys():
        return None
    from policyctl.effect.analysis import analyse
    from policyctl.report.effect_rows import model, percent

    try:
        seen = analyse(document, review.policies, review.declared).models
    except NotKnown as error:
        return f"what it leads to is not known: {escape(str(error))}"
    models = [f"{model(name)} {percent(share)}" for name, share in sorted(seen.items(), key=lambda one: -one[1])]
    more = f" and {len(models) - _MODELS:,} more" if len(models) > _MODELS else ""
    return f"leads to {', '.join(models[:_MODELS])}{more} while nothing fails"


def moved_words(change: Change, review: Review) -> str:
    """Who moved a live policy, in the words of drift; empty where that was not looked for, or is not known."""
    drift = review.drifts.get(change.name)
    return "" if drift is None or change.action == "add" or drift.moved == "unknown" else drift.words
