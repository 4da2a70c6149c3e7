"""Text for terminals and logs: escaping, values as one line, columns, colours, and differences."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from unicodedata import bidirectional, category, combining, east_asian_width, is_normalized, normalize

from policyctl.errors import Severity
from policyctl.plan.diff import ORDER, ordinal_name
from policyctl.policy.document import Document
from policyctl.policy.findings import as_one_word
from policyctl.policy.memo import late_pattern
from policyctl.policy.model_settings import SECRETS, SET, is_placeholder
from policyctl.policy.names import canonical_name, is_visible, kind_of, short_model, virtual_model
from policyctl.policy.virtual_model import written_form

if TYPE_CHECKING:
    from policyctl.plan.diff import FieldChange

_WORD = late_pattern(r"[\w./:@+-]+")
_TAKEN = late_pattern(r"absent|null|true|false|NaN|-?Infinity|-?\d[\d.eE+-]*")  # without quotes these are not text
_POSITION = late_pattern(r'"(?:[^"\\]|\\.)*"|targets\[(\d+(?: before)?)\]')  # not inside a quoted name
_LONGEST = 100
NONE_AFFECTED = "no environment is affected, so there is nothing to do"
_TOKENS, _WORDS = late_pattern(r"\S+"), late_pattern(r"[^\W_0-9]+")
# These look like the . / : - _ @ of names.
_LIKE_PUNCTUATION = frozenset("\u2010\u2011\u2024\u2044\u2215\u2236\u0589\uff0d\uff0e\uff0f\uff1a\uff20\uff3f")
# Letters of other scripts that look like ASCII letters: Cyrillic, Greek, Armenian, Cherokee, Lisu, Latin ones.
_LIKE_LETTERS = frozenset(
    "\u0410\u0412\u0415\u0405\u0406\u0408\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u04ae\u04c0\u050c\u051a\u051c"
    "\u0430\u0433\u0435\u043e\u0440\u0441\u0443\u0445\u044c\u0455\u0456\u0458\u0475\u04af\u04bb\u04cf\u0501\u051b\u051d"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u037f\u03f9"
    "\u03b1\u03b3\u03b9\u03ba\u03bd\u03bf\u03c1\u03c3\u03c5\u03c7\u03f2\u03f3"
    "\u0555\u054d\u053c\u0561\u0563\u0566\u0570\u0578\u057c\u057d\u0581\u0584\u0585"
    "\u13a0\u13a1\u13a2\u13a5\u13a9\u13aa\u13ab\u13ac\u13b3\u13b7\u13bb\u13bd\u13c0\u13c2\u13c3\u13cf\u13d2\u13d4\u13d5"
    "\u13d9\u13da\u13de\u13df\u13e2\u13e6\u13e7\u13f3\u13f4"
    "\ua4d0\ua4d1\ua4d2\ua4d3\ua4d4\ua4d6\ua4d7\ua4d9\ua4da\ua4db\ua4dd\ua4df\ua4e0\ua4e1\ua4e2\ua4e3\ua4e4\ua4e5\ua4e6"
    "\ua4e7\ua4e8\ua4ea\ua4eb\ua4ec\ua4ee\ua4f0\ua4f2\ua4f3\ua4f4"
    "\u0131\u0138\u017f\u0237\u0269\u01c0"
)
_ESCAPE = late_pattern(r"\x1b\[[\d;]*m")
_COMMAND = late_pattern(r"^( *):(?=:)|#(?=#\w*\[)")  # what runners obey: `::` where a line may begin, `##[` anywhere in one


def escape(text: str) -> str:
    """The text with everything escaped that is not plainly visible, such as control characters and direction marks.

    Also escaped are letters that look like ASCII ones (unless a letter beside them does not), separate combining accents, and
    the first character of commands that a CI runner obeys in printed text: `::error::…`, `##[error]…`.
    """
    if not text.isascii() or not text.isprintable():
        text = _unmistakable(text)
    return _COMMAND.sub(_escaped, text) if "::" in text or "##" in text else text


# Several accents on one letter reach into the lines around them.
_ACCENTS = late_pattern("[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]{2,}")
_TURNING = frozenset(("R", "AL", "AN"))  # right-to-left letters also move the numbers after them


def _unmistakable(text: str) -> str:
    """A non-ASCII text with ambiguous characters escaped."""
    if not is_normalized("NFC", text):  # a separate accent looks like one composed with its letter, and so does a copy of one
        text = "".join(_code_point(char) if combining(char) or not is_normalized("NFC", char) else char for char in text)
    text = _ACCENTS.sub(lambda found: "".join(map(_code_point, found[0])), text)
    text = "".join(_code_point(char) if bidirectional(char) in _TURNING else char for char in text)
    text = "".join(char if is_visible(char) and char not in _LIKE_PUNCTUATION else _code_point(char) for char in text)
    return _TOKENS.sub(lambda token: _without_lookalikes(token[0]), text)


def _without_lookalikes(token: str) -> str:
    """What is between spaces with the letters escaped that look like ASCII ones: of words that also have ASCII letters, or only
    such letters. No table has all of them, so of a word of one or two letters beside ASCII ones or digits each counts as such.

    A longer word with a letter that looks unlike every ASCII letter cannot be mistaken for an ASCII word.
    """
    beside = any(char.isascii() and char.isalnum() for char in token)
    return _WORDS.sub(lambda word: _word_without_lookalikes(word[0], beside=beside), token)


def _word_without_lookalikes(word: str, *, beside: bool) -> str:
    if any(char.isascii() for char in word) or (beside and len(word) <= 2):
        return "".join(char if _is_unlike_ascii(char) else _code_point(char) for char in word)
    return "".join(map(_code_point, word)) if all(map(_is_like_ascii, word)) else word


def _is_like_ascii(char: str) -> bool:
    """Whether a letter looks like an ASCII one: by the table, as a phonetic one, or as the same letter in another font."""
    is_phonetic = "\u0250" <= char <= "\u02af" or "\u1d00" <= char <= "\u1d2b"
    return is_phonetic or char in _LIKE_LETTERS or normalize("NFKC", char).isascii()


def _is_unlike_ascii(char: str) -> bool:
    """Whether a letter is ASCII or does not look so: an accented European letter, or a wide East Asian one."""
    if char.isascii() or normalize("NFD", char)[0].isascii():
        return True
    return ("\u00c0" <= char <= "\u017f" and char not in "\u0131\u0138\u017f") or east_asian_width(char) == "W"


def _code_point(char: str) -> str:
    return char.encode("unicode_escape").decode()


def _escaped(command: re.Match[str]) -> str:
    return "\\x23" if command[0] == "#" else f"{command[1]}\\x3a"


def name_text(name: str) -> str:
    """A name among words and numbers, to print."""
    return escape(as_one_word(name))


def json_text(data: Any) -> str:
    """Data as indented JSON with invisible characters and runner commands escaped; it reads back as the same data."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    if not is_visible(text.replace("\n", "")):
        text = "".join(char if is_visible(char) or char == "\n" else json.dumps(char)[1:-1] for char in text)
    # `##` occurs in strings only.
    return text.replace("##", "#\\u0023") + "\n"


def value(item: Any, *, longest: int | None = _LONGEST) -> str:
    """A plain value on one line, in YAML's flow style: `{attempts: 1, on_status_codes: [503]}`; None is `absent`.

    Different values give different texts unless they are cut: the text "3" is quoted, the number 3 is not.
    """
    text = "absent" if item is None else _flow(item)
    return text if longest is None else cut(text, longest)


def cut(text: str, longest: int) -> str:
    """The text, cut to `longest` characters with `…` at the end."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def shortened(name: str, longest: int = _LONGEST) -> str:
    """A name for use in a sentence: of a long one only the beginning and the end."""
    return name if len(name) <= longest else f"{name[: longest // 2]}…{name[-longest // 2 + 1 :]}"


def field_values(field: FieldChange, *, longest: int | None = _LONGEST) -> tuple[str, str]:
    """A field's values before and after, as text. An order that is absent is one that makes no difference."""
    if is_order(field):
        before, after = ("any" if order is None else escape(order) for order in (field.before, field.after))
        return before, after
    if field.path.removeprefix("provider_config.") in SECRETS:  # never more than whether it is set
        return _secret_text(field.before), _secret_text(field.after)
    return value(field.before, longest=longest), value(field.after, longest=longest)


def is_order(field: FieldChange) -> bool:
    """Whether a field is the order of targets."""
    return field.path.startswith("policy.") and field.path.endswith(ORDER)


def _secret_text(item: Any) -> str:
    """A secret's value: absent, set, or the placeholder that a file has in its place."""
    return item if is_placeholder(item) else "absent" if item is None else SET


def position_name(path: str) -> str:
    """A path counted from one: `policy.targets[2nd target].weight` for `policy.targets[1].weight`."""
    return _POSITION.sub(lambda found: f"targets[{ordinal_name(found[1])}]" if found[1] else found[0], escape(path))


def describe_value(document: Document) -> str:
    """A complete policy or model on one line; a live policy that a file could not hold is shown as a plain value."""
    if kind_of(document["name"]) == "model":
        return _describe_model(written_form(document))
    try:
        cache = document["policy"].get("cache")
        return _describe_group(document["policy"]) + (f"; cache {_whole(cache)}" if cache else "")
    except (KeyError, TypeError, AttributeError):
        return value(document.get("policy"))


def _describe_model(normal: Document) -> str:
    """`chat; connection openai_creds; custom_host "https://…"; temperature 0.2; tags support`. Nothing is cut: what comes last
    may decide where credentials go."""
    parts = [str(normal["model_type"])]
    parts += [f"connection {_whole(normal['app_id'])}"] if "app_id" in normal else []
    settings = normal.get("provider_config", {})
    parts += [f"{key} {_secret_text(item) if key in SECRETS else _whole(item)}" for key, item in sorted(settings.items())]
    config = normal.get("config", {})
    parts += [f"{escape(key)} {_whole(item)}" for key, item in sorted(config.items())] if isinstance(config, dict) else []
    tags = normal.get("tags")
    parts += [f"tags {', '.join(map(_whole, tags)) if isinstance(tags, list) else _whole(tags)}"] if tags else []
    return "; ".join(parts)


def _whole(item: Any) -> str:
    return value(item, longest=None)


def describe_texts(document: Document) -> list[str]:
    """The display name and the description of a policy, unless they repeat its name: `display_name: "Chat"`."""
    texts = ((key, document.get(key)) for key in ("display_name", "description"))
    return [
        f"{key}: {value(text, longest=None)}"
        for key, text in texts
        if text and canonical_name(text) != document["name"] != virtual_model(text)
    ]


def _describe_group(group: Document) -> str:
    """`fallback on 429, 503 of openai/gpt-4o, then google/gemini-2.0-flash; up to 2 retries on 429`."""
    strategy = group["strategy"]
    mode, codes = strategy["mode"], strategy.get("on_status_codes")
    on = f" on {_codes(codes)}" if codes is not None and mode == "fallback" else ""
    between = ", then " if mode == "fallback" else ", "
    targets = between.join(_describe_target(target, mode) for target in group["targets"])
    return f"{mode}{on} of {targets}{_describe_retry(group, '; ')}"


def _describe_target(target: Document, mode: str) -> str:
    if "model_name" in target:
        text = f"{name_text(short_model(target['model_name']))}{_describe_retry(target, ' with ')}"
    else:
        text = f"[{_describe_group(target)}]"
    return f"{text} ({value(target.get('weight', 1))})" if mode == "loadbalance" else text


def _describe_retry(group: Document, before: str) -> str:
    retry = group.get("retry")
    if not retry:
        return ""
    codes = retry.get("on_status_codes")
    attempts = retry.get("attempts", 0)
    times = "no retries" if not attempts else f"up to {'1 retry' if attempts == 1 else f'{value(attempts)} retries'}"
    on = f" on {_codes(codes)}" if codes is not None and attempts else ""
    return f"{before}{times}{on}{' as Retry-After asks' if retry.get('use_retry_after_header') is True and attempts else ''}"


def _codes(codes: list[Any]) -> str:
    return ", ".join(map(value, codes)) or "nothing"


def _flow(item: Any) -> str:
    if isinstance(item, dict):
        return "{" + ", ".join(f"{_flow(str(key))}: {_flow(child)}" for key, child in item.items()) + "}"
    if isinstance(item, list):
        return "[" + ", ".join(map(_flow, item)) + "]"
    if isinstance(item, str):
        bare = _WORD.fullmatch(item) and not _TAKEN.fullmatch(item)
        return escape(item if bare else json.dumps(item, ensure_ascii=False))
    return json.dumps(item)


def count(number: int, noun: str) -> str:
    """`1 policy`, `2 policies`."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun[:-1]}ies" if noun.endswith("y") else f"{number:,} {noun}s"


def columns(text: str) -> int:
    """The width of a text in terminal columns: colours take none, wide characters two."""
    bare = _ESCAPE.sub("", text) if "\x1b" in text else text
    return len(bare) if bare.isascii() else sum(map(_columns_of, bare))


def padded(text: str, width: int) -> str:
    """The text padded to this many columns; a longer one is unchanged."""
    return text + " " * (width - columns(text))


def _columns_of(char: str) -> int:
    if char == "\ufe0f":  # requests the wide form of the character before it, which some terminals draw
        return 1
    if category(char) in ("Mn", "Me"):
        return 0
    return 2 if east_asian_width(char) in ("W", "F") else 1


SEVERITIES: dict[Severity, str] = {"error": "red", "warning": "yellow", "info": "cyan"}  # the worst first
_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Style(NamedTuple):
    """Colours text if `on`. `width` is the terminal's, in columns; None without a terminal.

    Only excerpts of files are cut to that width; the terminal wraps everything else.
    """

    on: bool = False
    width: int | None = None

    def paint(self, text: str, *looks: str) -> str:
        """The text in these looks (see `_CODES`); unchanged if colour is off."""
        if not self.on or not looks:
            return text
        return f"\x1b[{';'.join(_CODES[look] for look in looks)}m{text}\x1b[0m"


def wants_colour(choice: str, is_terminal: bool, environ: Mapping[str, str]) -> bool:
    """Whether to colour one stream: the user's choice, else NO_COLOR, FORCE_COLOR, TERM=dumb, else whether it is a terminal."""
    if choice != "auto":
        return choice == "always"
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR") or environ.get("CLICOLOR_FORCE"):
        return True
    return is_terminal and environ.get("TERM") != "dumb" and environ.get("CLICOLOR") != "0"


_DIFF_LOOKS = {"+": "green", "-": "red", "@": "cyan"}


def diff_lines(old: Sequence[str], new: Sequence[str], names: tuple[str, str], style: Style) -> Iterator[str]:
    """A unified diff of lines without line feeds, escaped; `names` are those of both sides."""
    from difflib import unified_diff

    for number, line in enumerate(unified_diff(old, new, *names, lineterm="")):
        yield style.paint(escape(line), *(["bold"] if number < 2 else _diff_looks(line)))


def _diff_looks(line: str) -> list[str]:
    look = _DIFF_LOOKS.get(line[:1])
    return [look] if look else []
