"""What a service's response means: its JSON within bounds, its error in one line, how long to wait."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

MAX_MEMORY = 1024 * 1024 * 1024  # bytes, by an estimate from above: 64 MiB of policies need less
MAX_DEPTH = 200  # as in a file
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class TooLargeJson(Exception):
    """JSON that is not read; the message ends the sentence "it answered 200 with …"."""


def read_bounded_json(content: bytes) -> Any:
    """The value of a JSON text. Raises TooMuch, before anything is made of it where that can be, or ValueError."""
    count = content.count
    # What CPython takes: of an object, a list, a value with its place, and of every character where one is an emoji.
    memory = 232 * count(b"{") + 88 * count(b"[") + 80 * (count(b",") + count(b":")) + 4 * len(content)
    if memory > MAX_MEMORY:
        raise TooLargeJson(f"so many values that they would take more than {MAX_MEMORY >> 30} GiB of memory")
    deep = _may_be_deep(content)
    try:
        value = json.loads(content)
    except RecursionError:
        raise _too_deep() from None
    if deep and _is_deep(value):
        raise _too_deep()
    return value


def _too_deep() -> TooLargeJson:
    return TooLargeJson(f"JSON that is nested more than {MAX_DEPTH} deep")


def _may_be_deep(content: bytes) -> bool:
    """Whether brackets are left when pairs without any inside are taken away so many times. Those in text count as well."""
    brackets = content.translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        fewer = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(fewer) == len(brackets):
            break
        brackets = fewer
    return bool(brackets)


def _is_deep(value: Any) -> bool:
    layer = [value]
    for _ in range(MAX_DEPTH):
        inner = (item.values() if isinstance(item, dict) else item for item in layer if isinstance(item, dict | list))
        layer = [item for items in inner for item in items]
    return any(isinstance(item, dict | list) for item in layer)


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
        return read_bounded_json(response.content)
    except TooLargeJson as error:
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
    words = " ".join(scrub(_message_of(response)).split())
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


def _message_of(response: httpx.Response) -> str:
    try:
        content = content_of(response)
    except BadContent as error:
        # As UTF-8, whatever encoding the header claims: some of Python's codecs fail, or never end.
        return str(error) if error.whole else response.content.decode("utf-8", "replace")
    return _message(content)


def _message(value: Any, depth: int = 4) -> str:
    """The words in an error's detail, which is a string, an object, or a list of either."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and depth:
        return "; ".join(filter(None, (_message(item, depth - 1) for item in value)))
    if not isinstance(value, dict) or not depth:
        return ""
    if isinstance(value.get("msg"), str):
        where = _field_of(value.get("loc"))
        return f"{where}: {value['msg']}" if where else value["msg"]
    found = (_message(value[key], depth - 1) for key in _WORDS if key in value)
    return next(filter(None, found), str(value.get("code") or ""))


def _field_of(location: Any) -> str:
    """`policy.targets.0`, from the list that says where in the request's body something is wrong."""
    return ".".join(str(part) for part in location if part != "body") if isinstance(location, list) else ""
