"""What a service's answer says: its JSON, its error in one line, how long it wants to be left alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from policyctl.remote.json_bounds import TooMuch, read_json

QUOTA = "RESOURCE_QUOTA_EXCEEDED"
_LONGEST = 300  # characters of a server's own words
# Where services put their words: IBM's API reference, its identity service, and its platform, in this order.
_WORDS = ("detail", "message", "error", "errorMessage", "error_description", "errors", "exception")


class BadContent(Exception):
    """An answer that should be JSON and is not. `whole` says that it is something else, rather than cut short."""

    def __init__(self, what: str, *, whole: bool) -> None:
        super().__init__(what)
        self.whole = whole


def content_of(response: httpx.Response) -> Any:
    """The JSON value of an answer; None when it is empty. Raises BadContent."""
    if not response.content.strip():
        return None
    try:
        return read_json(response.content)
    except TooMuch as error:
        raise BadContent(str(error), whole=True) from None
    except ValueError:
        if _is_page(response):
            raise BadContent("an HTML page instead of JSON", whole=True) from None
        raise BadContent("text that is not whole JSON", whole=False) from None


def describe(response: httpx.Response, scrub: Callable[[str], str]) -> str:
    """`422 Unprocessable Entity: policy.targets: Field required`, the status with what the server says about it.

    `scrub` is asked before anything is cut off, so that not even half a secret is left.
    """
    status = f"{response.status_code} {scrub(response.reason_phrase)}".strip()
    words = " ".join(scrub(_words_of(response)).split())
    words = words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…"
    return f"{status}: {words}" if words else status


def is_quota(response: httpx.Response) -> bool:
    """Whether a 429 says that the tenant is full, which no waiting cures, and not that there were too many requests."""
    try:
        content = content_of(response)
    except BadContent:
        return False
    detail = content.get("detail") if isinstance(content, dict) else None
    return QUOTA in (_code(detail), _code(content))


def retry_after(response: httpx.Response) -> float | None:
    """The seconds that a `Retry-After` asks for, written as a number or as a date; None without a usable one."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    until = _date(text)
    if until is None:
        return None
    now = _date(response.headers.get("Date", "")) or datetime.now(UTC)  # the server's own clock, where it says it
    return max(0.0, (until - now).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _code(value: Any) -> Any:
    return value.get("code") if isinstance(value, dict) else None


def _is_page(response: httpx.Response) -> bool:
    return "html" in response.headers.get("Content-Type", "").lower() or response.content.lstrip()[:1] == b"<"


def _words_of(response: httpx.Response) -> str:
    try:
        content = content_of(response)
    except BadContent as error:
        # As UTF-8, whatever encoding the header claims: some of Python's codecs fail, or never end.
        return str(error) if error.whole else response.content.decode("utf-8", "replace")
    return _words(content)


def _words(value: Any, depth: int = 4) -> str:
    """The words in an error's detail, which is a string, an object, or a list of either."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and depth:
        return "; ".join(filter(None, (_words(item, depth - 1) for item in value)))
    if not isinstance(value, dict) or not depth:
        return ""
    if isinstance(value.get("msg"), str):
        where = _place(value.get("loc"))
        return f"{where}: {value['msg']}" if where else value["msg"]
    found = (_words(value[key], depth - 1) for key in _WORDS if key in value)
    return next(filter(None, found), str(value.get("code") or ""))


def _place(location: Any) -> str:
    """`policy.targets.0`, from the list that says where in the request's body something is wrong."""
    return ".".join(str(part) for part in location if part != "body") if isinstance(location, list) else ""
