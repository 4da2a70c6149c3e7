"""The policies that a target may name, and what is known of those that cannot be followed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from policyctl.model.normal import Document

NOT_HERE = "not known here"


def leads_to_unclear(name: str, why: str) -> str:
    """Why it is not known what a policy does that leads to one which cannot be followed."""
    return f"it leads to {name}, and what that one does is not known: {why}"


class Known(Mapping[str, Document]):
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
    def of(cls, policies: Mapping[str, Document] | None) -> Known:
        """The same policies; a plain mapping is not whole."""
        return policies if isinstance(policies, cls) else cls(policies or {})

    def why_not(self, name: str) -> str | None:
        """Why a policy that is not among these cannot be followed; None when there is no policy of that name."""
        return self.unclear.get(name, None if self.whole else NOT_HERE)

    def __getitem__(self, name: str) -> Document:
        return self._documents[name]

    def __contains__(self, name: object) -> bool:
        return name in self._documents

    def __iter__(self) -> Iterator[str]:
        return iter(self._documents)

    def __len__(self) -> int:
        return len(self._documents)
