"""What each of many files says: remembered from the last run, or read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from policyctl.errors import InvalidInput
from policyctl.lint.catalogue import DEEP_CODES
from policyctl.load.cache import Cache
from policyctl.load.contents import Contents, from_line, to_line
from policyctl.load.kinds import is_test_file
from policyctl.load.markers import is_templated
from policyctl.load.source import Source, source_of
from policyctl.model.normal import written_text


class Reading:
    """Files by name, each parsed at most once for each set of variables that changes what it says."""

    def __init__(self, files: Mapping[str, bytes], codes: frozenset[str], cache: Cache) -> None:
        """`codes` are those of the lint rules to run; with one of the effect engine, that one runs too."""
        self.files = files
        self._codes = codes
        self._cache = cache
        self._templated = {file for file, content in files.items() if is_templated(content)}
        self.source = lru_cache(maxsize=256)(self._source)  # one file is often asked for several times in a row
        self._same: dict[str, Contents | InvalidInput] = {}  # what files say whatever the variables are

    def _source(self, file: str) -> Source:
        """A file's text and documents. Raises InvalidInput."""
        return source_of(self.files[file], file)

    def contents(
        self, variables: Mapping[str, Any], on_file: Callable[[], object] = lambda: None
    ) -> dict[str, Contents | InvalidInput]:
        """What every file says with these variables, in the files' order; for one that cannot be parsed the problem.

        `on_file` is told of each one that had to be read.
        """
        keys = self._keys((file for file in self.files if file not in self._same), variables)
        said: dict[str, Contents | InvalidInput] = {}
        for file, key in keys.items():
            if key and (line := self._cache.get(key)) is not None:
                said[file] = from_line(line, file)
        for file, found in self._read([file for file in keys if file not in said], variables):
            on_file()
            # What was read takes the same way as what was known: there is no second form of it.
            said[file] = found if isinstance(found, InvalidInput) else from_line(found, file)
            if isinstance(found, str) and (key := keys[file]):
                self._cache.put(key, found)
        self._cache.save()
        self._same.update((file, contents) for file, contents in said.items() if file not in self._templated)
        known = said | self._same
        return {file: known[file] for file in self.files}

    def _keys(self, files: Iterable[str], variables: Mapping[str, Any]) -> dict[str, str | None]:
        """For each file a digest of everything that decides what it says; None for scenario tests: that is no such question."""
        # Templates see the order of a mapping, though not that of the variables themselves.
        seen = sorted(variables.items())
        # The first part of each is one of four.
        begun = {
            (json, templated): hashlib.blake2b(
                written_text([json, sorted(self._codes), seen if templated else None]).encode() + b"\0", digest_size=16
            )
            for json in (False, True)
            for templated in (False, True)
        }
        keys: dict[str, str | None] = {}
        for file in files:
            digest = begun[file.endswith(".json"), file in self._templated].copy()
            digest.update(self.files[file])
            keys[file] = None if is_test_file(file) else digest.hexdigest()
        return keys

    def _read(self, files: list[str], variables: Mapping[str, Any]) -> Iterator[tuple[str, str | InvalidInput]]:
        """What these files say, as lines; for one that cannot be parsed the problem."""
        for file in files:
            yield file, self._read_one(file, variables)

    def _read_one(self, file: str, variables: Mapping[str, Any]) -> str | InvalidInput:
        from policyctl.load.policies import read_contents  # pydantic and the models cost 0.1 s

        deep = not self._codes.isdisjoint(DEEP_CODES)
        try:
            return to_line(read_contents(self.source(file), variables, self._codes, deep=deep))
        except InvalidInput as error:
            return error
