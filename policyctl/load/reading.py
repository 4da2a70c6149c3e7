"""What each of many files says: remembered from the last run, or read by two processes where there are many."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import zip_longest
from typing import Any

from policyctl.errors import InvalidInput
from policyctl.lint.catalogue import DEEP_CODES
from policyctl.load.cache import Cache
from policyctl.load.contents import Contents, from_plain, to_plain
from policyctl.load.kinds import is_test_file
from policyctl.load.markers import is_templated
from policyctl.load.second import begin, can_fork
from policyctl.load.source import Source, source_of
from policyctl.model.normal import canonical_text

MANY = 1000  # files from which on a second process pays


class Reading:
    """Files by name, each parsed at most once for each set of variables that changes what it says."""

    def __init__(self, files: Mapping[str, bytes], codes: frozenset[str], cache: Cache) -> None:
        """`codes` are those of the lint rules to run; with one of the effect engine, that one runs too."""
        self._files = files
        self._codes = codes
        self._cache = cache
        self.source = lru_cache(maxsize=256)(self._source)  # one file is often asked for several times in a row
        self._same: dict[str, Contents | InvalidInput] = {}  # what files say whatever the variables are

    def _source(self, file: str) -> Source:
        """A file's text and documents. Raises InvalidInput."""
        return source_of(self._files[file], file)

    def contents(self, variables: Mapping[str, Any]) -> dict[str, Contents | InvalidInput]:
        """What every file says with these variables; for one that cannot be parsed the problem."""
        keys = {file: self._key(file, variables) for file in self._files if file not in self._same}
        said: dict[str, Contents | InvalidInput] = {}
        for file, key in keys.items():
            if key and (plain := self._cache.get(key)) is not None:
                said[file] = from_plain(plain, file)
        missing = [file for file in keys if file not in said]
        for file, contents in self._read(missing, variables):
            said[file] = contents
            if isinstance(contents, Contents) and (key := keys[file]):
                self._cache.put(key, to_plain(contents))
        self._cache.save()
        self._same.update((file, contents) for file, contents in said.items() if not is_templated(self._files[file]))
        return said | self._same

    def _key(self, file: str, variables: Mapping[str, Any]) -> str | None:
        """A digest of everything that decides what a file says; None for scenario tests, which are no such question."""
        if is_test_file(file):
            return None
        content = self._files[file]
        read_with = [file.endswith(".json"), sorted(self._codes), variables if is_templated(content) else None]
        return hashlib.blake2b(canonical_text(read_with).encode() + b"\0" + content, digest_size=16).hexdigest()

    def _read(self, files: list[str], variables: Mapping[str, Any]) -> Iterator[tuple[str, Contents | InvalidInput]]:
        if len(files) < MANY or not can_fork():
            for file in files:
                yield file, self._read_one(file, variables)
            return
        other = begin(lambda: [self._plain(file, variables) for file in files[1::2]])
        for file in files[::2]:
            yield file, self._read_one(file, variables)
        for file, plain in zip_longest(files[1::2], other() or ()):
            yield file, self._read_one(file, variables) if plain is None else from_plain(plain, file)

    def _plain(self, file: str, variables: Mapping[str, Any]) -> list[Any] | None:
        """What a file says as a plain value; None when it cannot be parsed, which the other process then tells."""
        contents = self._read_one(file, variables)
        return to_plain(contents) if isinstance(contents, Contents) else None

    def _read_one(self, file: str, variables: Mapping[str, Any]) -> Contents | InvalidInput:
        from policyctl.load.policies import read_contents  # pydantic and the models cost 0.1 s

        deep = not self._codes.isdisjoint(DEEP_CODES)
        try:
            return read_contents(self.source(file), variables, self._codes, deep=deep)
        except InvalidInput as error:
            return error
