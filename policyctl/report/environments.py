"""The environments of a configuration, listed, and one with where each of its settings comes from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from policyctl.load.environment import Config, Environment, dotted
from policyctl.report.format import Style, count, escape, json_text, padded, value

VERSION = 1
NONE_AFFECTED = "no environment is affected, so there is nothing to do"
_WIDEST = 60  # columns of a value that decides where origins are


def environments_text(config: Config, names: Collection[str], style: Style) -> str:
    """One line an environment: its name, remote, labels, and why it is suspended or cannot be used; a summary at the end."""
    width = max(len(name) for name in names)
    lines = [f"{style.paint(padded(name, width), 'bold')}  {_line(config, name, style)}".rstrip() for name in names]
    others = len(config.labels) - len(names)
    also = f"; {others:,} not selected" if others else ""
    return "\n".join(lines) + f"\n\n{count(len(names), 'environment')}{also}.\n"


def _line(config: Config, name: str, style: Style) -> str:
    if name in config.broken:
        return style.paint("cannot be used (policyctl validate shows why)", "red")
    environment = config.environments[name]
    labels = " ".join(f"{escape(key)}={escape(label)}" for key, label in sorted(environment.labels.items()))
    why = environment.suspended
    suspended = "" if why is None else style.paint(f"suspended: {escape(why)}", "yellow")
    return "  ".join(part for part in (escape(environment.remote), labels, suspended) if part)


def environments_json(config: Config, names: Collection[str]) -> str:
    """The same as JSON text."""
    data = {"format": "policyctl/environments", "version": VERSION, "environments": [_row(config, name) for name in names]}
    return json_text(data)


def _row(config: Config, name: str) -> dict[str, Any]:
    if name in config.broken:
        return {"name": name, "usable": False, "problems": [problem.message for problem in config.broken[name]]}
    one = config.environments[name]
    return {
        "name": name,
        "usable": True,
        "remote": one.remote,
        "labels": dict(sorted(one.labels.items())),
        "suspended": one.suspended,
    }


def environment_text(config: Config, environment: Environment, style: Style) -> str:
    """Each setting of an environment on a line, with its origin."""
    rows = list(_settings(config, environment))
    width = max(len(path) for path, _, _ in rows)
    shown = [(padded(path, width), value(item, longest=None), origin) for path, item, origin in rows]
    longest = max(len(text) for _, text, _ in shown if len(text) <= _WIDEST)
    lines = [
        f"{style.paint(path, 'bold')}  {padded(text, longest)}  {style.paint(origin, 'dim')}" for path, text, origin in shown
    ]
    return f"environment {escape(environment.name)}\n\n" + "\n".join(lines) + "\n"


def environment_json(config: Config, environment: Environment) -> str:
    """The same as JSON text."""
    settings = [{"setting": path, "value": item, "from": origin} for path, item, origin in _settings(config, environment)]
    data = {"format": "policyctl/environment", "version": VERSION, "name": environment.name, "settings": settings}
    return json_text(data)


def _settings(config: Config, environment: Environment) -> Iterator[tuple[str, Any, str]]:
    """The settings by dotted path, with their values and origins."""
    access: dict[str, Any] = {"remote": environment.remote, "ca_file": environment.ca_file}
    access["requests_per_second"] = environment.requests_per_second
    if environment.auth is not None:
        access |= {f"auth.{key}": item for key, item in environment.auth.model_dump(exclude_none=True).items()}
    more = {dotted("labels", key): label for key, label in environment.labels.items()}
    more |= {dotted("vars", key): item for key, item in environment.vars.items()}
    suspend = None if environment.suspend is None else environment.suspended or "not any more"
    rules = {key: item for key, item in environment.decides.items() if key != "vars"}
    flat = {**access, **more, "suspend": suspend, **_leaves(rules)}
    for path, item in flat.items():
        if item is not None:
            yield path, item, _origin(config, environment.name, path)


def _leaves(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Limits and guards one by one; other settings as they are."""
    flat: dict[str, Any] = {}
    for key, item in tree.items():
        flat |= {f"{key}.{one}": part for one, part in item.items()} if isinstance(item, Mapping) else {key: item}
    return flat


def _origin(config: Config, name: str, path: str) -> str:
    """A template, a row, the environment's own entry, the top of the file, or `default`."""
    origins = config.origins.get(name)
    if origins is not None and path in origins:
        return origins[path]
    own = path.startswith(("vars.", "labels.")) or _is_written(config, f"{dotted('environments', name)}.{path}")
    if origins is None and own:
        return f"environments.{name}"
    return "policyctl.yaml" if _is_written(config, path) else "default"


def _is_written(config: Config, path: str) -> bool:
    return any(one == path or one.startswith(f"{path}.") for one in config.written)
