"""What a policy depends on besides its own document: the types of its models, and the policies that it targets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from policyctl.policy.document import Document, model_names
from policyctl.policy.names import canonical_model, short_model

USUAL_TYPE = "chat"  # the platform's default for a model without a type
_SAME = {"chat_vision": "chat"}  # takes the same requests


class DeclaredModels(NamedTuple):
    """The models' own timeouts in seconds and their types (`chat`, `embedding`, …), by canonical name, as far as known.

    `before` is what was declared when the policies were what they are live, where that is
    known.
    """

    timeouts: Mapping[str, float] = {}
    types: Mapping[str, str] = {}
    before: DeclaredModels | None = None

    @property
    def then(self) -> DeclaredModels:
        """The declarations that apply to live policies: the earlier ones, or else these."""
        return self if self.before is None else self.before

    @property
    def facts(self) -> list[Mapping[str, float | str]]:
        """All that has an effect, as plain values, which are equal where nothing differs for any policy."""
        return [self.timeouts, self.types, self.then.timeouts, self.then.types]

    def requests(self, model: str) -> str | None:
        """The kind of requests that a model takes, where that is declared: its type, but that `chat_vision` takes chats."""
        own = self.types.get(model)
        return own if own is None else _SAME.get(own, own)

    def __or__(self, other: DeclaredModels) -> DeclaredModels:
        """Both; where the other one declares something, it wins."""
        before = None if self.before is None else self.before | other
        return DeclaredModels({**self.timeouts, **other.timeouts}, {**self.types, **other.types}, before)


NOTHING = DeclaredModels()


MAX_CHAIN = 20  # policies, each the target of the one before; people write two or three
TOO_LONG = (
    f"it leads through more than {MAX_CHAIN} policies in a row; no more are followed, so what requests get was not computed"
)
NOT_HERE = "not known here"


def leads_to_unclear(name: str, why: str) -> str:
    """Why it is not known what a policy does that leads to one which cannot be followed."""
    return f"it leads to {name}, and what that one does is not known: {why}"


class KnownPolicies(Mapping[str, Document]):
    """Policies by canonical name, as far as they are known.

    `whole` means that there are no others: a policy of another name does not exist. `unclear` are policies that exist but
    cannot be followed, each with the reason; they are not among the documents.
    """

    def __init__(
        self,
        documents: Mapping[str, Document],
        *,
        whole: bool = False,
        unclear: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._documents = documents
        self.whole = whole
        self.unclear = unclear

    @classmethod
    def of(cls, policies: Mapping[str, Document] | None) -> KnownPolicies:
        """The same policies; a plain mapping is not whole."""
        return policies if isinstance(policies, cls) else cls(policies or {})

    def why_not(self, name: str) -> str | None:
        """Why a policy that is not among these cannot be followed; None when no policy has that name."""
        return self.unclear.get(name, None if self.whole else NOT_HERE)

    def __getitem__(self, name: str) -> Document:
        return self._documents[name]

    def __contains__(self, name: object) -> bool:
        return name in self._documents

    def __iter__(self) -> Iterator[str]:
        return iter(self._documents)

    def __len__(self) -> int:
        return len(self._documents)


_NAMED = 5  # policies in a sentence


def redeclared(declared: DeclaredModels, *policies: Mapping[str, Document]) -> Iterator[str]:
    """A sentence for every model that one of the policies targets and whose declaration changed."""
    then = declared.then
    changed = {
        model: text
        for model in sorted({*declared.types, *then.types, *declared.timeouts, *then.timeouts})
        if (text := ", ".join(_moved(model, then, declared)))
    }
    users: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for name, document in (one for some in (policies if changed else ()) for one in some.items()):
        for model in changed.keys() & set(map(canonical_model, model_names(document))):
            users[model][name] = None
    for model, text in changed.items():
        if names := sorted(users[model]):
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            yield (
                f"the declaration of {short_model(model)} changes ({text}); what is shown of before and after rests on it for "
                f"{', '.join(names[:_NAMED])}{more}"
            )


def _moved(model: str, then: DeclaredModels, now: DeclaredModels) -> Iterator[str]:
    for what, before, after in (
        ("model_type", then.types, now.types),
        ("request_timeout", then.timeouts, now.timeouts),
    ):
        if before.get(model) != after.get(model):
            yield f"{what} {_said(before.get(model))} → {_said(after.get(model))}"


def _said(value: str | float | None) -> str:
    return "not declared" if value is None else f"{value:g} s" if isinstance(value, int | float) else value
