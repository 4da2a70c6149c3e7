"""What an update of a virtual model does: its calls are made another way, and what answers them is not modelled.

What a reviewer must see first is where requests, and with them credentials, go to another host.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from policyctl.policy.model_settings import DESTINATIONS, SECRETS, comparable, snake_case

if TYPE_CHECKING:
    from policyctl.effect.analysis import Effect
    from policyctl.plan.change import Change
    from policyctl.plan.diff import FieldChange

_NO_CALLS = frozenset({"display_name", "description", "tags"})  # fields of a model that no call depends on
_CONNECTION = "its connection changes, which decides the credentials of its calls and may decide their host"
_DEFAULT = "its tag default changes, by which the platform chooses the model for new agents"
_OTHER = "its calls are made with other settings, and what answers them is not modelled"
_NAMED = 3  # settings in a sentence
_LONGEST = 60  # characters of a setting's path in it
# The scheme and authority of a URL, with all that one of the many ways to read a URL may take for part of the host.
_AUTHORITY = re.compile(r"https?:[/\\]*[^/?#]*", re.IGNORECASE)
_HOST_KEY = re.compile(r"(host|hostname|url|uri|endpoint|domain|proxy|server|api_?base)$", re.IGNORECASE)


def effect_on_model(change: Change) -> Effect:
    """The effect of an update of a virtual model."""
    from policyctl.effect.analysis import Effect

    calls = [field for field in change.fields if field.path not in _NO_CALLS]
    moved = [field for field in calls if _leads_elsewhere(field)]
    connection = [_CONNECTION] * any(field.path == "app_id" for field in calls)
    default = [_DEFAULT] * any(_default_moves(field) for field in change.fields)
    others = [_OTHER] * (len(calls) > len(moved) + len(connection))
    if not (calls or default):
        return Effect("metadata", sure=True, of_model=True)
    if not (moved or connection):
        return Effect("unknown", unknown="; ".join([*default, *others]), of_model=True)
    credentials = _credentials(change)
    where = f"may go to another host, since {_named(moved)}"
    sent = [f"{' and '.join(['its requests', *credentials])} {where}"] * bool(moved)
    brief = [f"its requests{' and credentials' if credentials else ''} {where}"] if moved else connection
    return Effect(
        "unknown",
        unknown="; ".join([*sent, *connection, *default, *others]),
        brief="; ".join([*brief, *default]),
        of_model=True,
    )


def _credentials(change: Change) -> list[str]:
    """The credentials that go with a model's requests, as far as the model shows them: its own secrets, a connection's."""
    before, after = change.before or {}, change.after or {}
    old, new = (comparable(one.get("provider_config")) for one in (before, after))
    own = sorted(SECRETS & old.keys() & new.keys())
    # A remote that merges what it is sent may keep a connection that the file no longer has.
    connected = bool(before.get("app_id") or after.get("app_id"))
    return [f"its own {', '.join(own)}"] * bool(own) + ["the credentials of its connection"] * connected


def _named(fields: list[FieldChange]) -> str:
    """`custom_host changes`; of many settings the first ones and how many more there are."""
    names = sorted((field.path.removeprefix("provider_config.") for field in fields), key=lambda name: name not in DESTINATIONS)
    shown = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in names[:_NAMED]]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(shown)}{more} {'changes' if len(names) == 1 else 'change'}"


def _leads_elsewhere(field: FieldChange) -> bool:
    """Whether a setting decides a host, and may decide another one from now on."""
    key = field.path.rpartition(".")[2].strip('"')
    return _hosts(field.before, key) != _hosts(field.after, key)


def _hosts(value: Any, key: str) -> frozenset[str]:
    """All within a setting's value that may decide a host: what is before the path of each URL, also of one within a text,
    and the whole text without a URL below a key that is named after a host."""
    if isinstance(value, dict):
        return frozenset().union(*(_hosts(item, name) for name, item in value.items()))
    if isinstance(value, list):
        return frozenset().union(*(_hosts(item, key) for item in value))
    if not isinstance(value, str):
        return frozenset()
    found = frozenset(one.lower() for one in _AUTHORITY.findall(value))
    return found or (frozenset({value}) if _is_host_key(key) else found)


def _is_host_key(key: str) -> bool:
    return snake_case(key) in DESTINATIONS or bool(_HOST_KEY.search(key))


def _default_moves(field: FieldChange) -> bool:
    return field.path == "tags" and _has_default(field.before) != _has_default(field.after)


def _has_default(tags: Any) -> bool:
    return isinstance(tags, list) and "default" in tags
