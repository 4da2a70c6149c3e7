"""What each of many files says, for one set of variables after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from policyctl.errors import InvalidInput
from policyctl.load.contents import FileResult
from policyctl.load.source import Source, source_of
from policyctl.load.variables import is_templated
from policyctl.rules.catalogue import DEEP_CODES


class Reading:
    """Files by name, each parsed at most once for each set of variables that changes what it says."""

    def __init__(self, files: Mapping[str, bytes], codes: frozenset[str]) -> None:
        """`codes` are those of the lint rules to run; with one of the effect engine, that one runs too."""
        self.files = files
        self._codes = codes
        self.source = lru_cache(maxsize=256)(self._source)  # one file is often asked for several times in a row
        self._same: dict[str, FileResult | InvalidInput] = {}  # what files say whatever the variables are

    def _source(self, file: str) -> Source:
        """A file's text and documents. Raises InvalidInput."""
        return source_of(self.files[file], file)

    def contents(
        self, variables: Mapping[str, Any], on_file: Callable[[], object] = lambda: None
    ) -> dict[str, FileResult | InvalidInput]:
        """What every file says with these variables, in the files' order; for one that cannot be parsed the problem.

        `on_file` is called for each one that had to be read.
        """
        found: dict[str, FileResult | InvalidInput] = {}
        for file, content in self.files.items():
            if file in self._same:
                found[file] = self._same[file]
                continue
            found[file] = self._read(file, variables)
            on_file()
            if not is_templated(content):
                self._same[file] = found[file]
        return found

    def _read(self, file: str, variables: Mapping[str, Any]) -> FileResult | InvalidInput:
        from policyctl.load.documents import read_contents  # pydantic and the models cost 0.1 s

        deep = not self._codes.isdisjoint(DEEP_CODES)
        try:
            contents = read_contents(self.source(file), variables, self._codes, deep=deep)
        except InvalidInput as error:
            return error
        for policy in contents.policies:
            policy.keep_text()
        return contents
