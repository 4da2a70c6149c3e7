"""What there is: live policies and models, listed, shown, pulled into files, and who uses them; and the environments.

An environment is shown with where each of its settings comes from. The JSON schemas are in `schemas`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from policyctl.load.adopt import Pull
from policyctl.load.environment import Config, Environment, dotted
from policyctl.load.write import file_text, kept_by_updates, unrepresentable_reasons, what_files_lack
from policyctl.plan.consumers import ConsumerUse
from policyctl.plan.diff import unknown_field_notes, unknown_fields, unknown_model_fields
from policyctl.plan.plan import Plan
from policyctl.policy.document import normal_form
from policyctl.policy.findings import listed
from policyctl.policy.live import Live, LivePolicy, LiveRows
from policyctl.policy.model_settings import SET, shown_free
from policyctl.policy.names import PLURALS, Kind, kind_of
from policyctl.policy.virtual_model import LiveModel
from policyctl.report.format import Style, count, describe_value, escape, json_text, padded, position_name, value
from policyctl.report.plan_json import unread_data, uses_data
from policyctl.report.plan_view import how_many

VERSION = 1

_LONGEST = 1000  # characters of a value


def live_text(kind: Kind, observed: LiveRows, environment: str, remote: str, style: Style) -> str:
    """One line for each policy or model, the rows that are none, and a summary as the last line. All of it is of one kind."""
    lines = [f"{style.paint(escape(name), 'bold')}  {_describe(live, style)}" for name, live in sorted(observed.live.items())]
    head = style.paint(f"environment {escape(environment)}, remote {escape(remote)}", "dim")
    blocks = [[head], [*lines, *_strange(observed, style)], [f"{count(len(lines), kind)}."]]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def live_json(kind: Kind, observed: LiveRows, environment: str, remote: str) -> str:
    """The same as JSON text. All are in normal form, policies with their targets in the order of the remote."""
    data = {
        "format": f"policyctl/{PLURALS[kind]}",
        "version": VERSION,
        "environment": environment,
        "remote": remote,
        PLURALS[kind]: [_as_json(live) for _, live in sorted(observed.live.items())],
        "twins": [{"name": twins.name, "ids": list(twins.ids)} for twins in observed.twins],
        "unreadable": [{"name": row.name, "id": row.id, "reason": row.reason} for row in observed.unreadable],
    }
    return json_text(data)


def file_text_or_why(live: Live) -> str:
    """A live policy or model as its file, with further fields as comments below. One that no file can hold is JSON, below
    comments with the reasons.
    """
    text = file_text(live)
    if isinstance(text, str):
        return text + extra_comments(live)
    why = "".join(f"# not a valid {kind_of(live.name)}: {escape(reason)}\n" for reason in unrepresentable_reasons(text))
    return why + json_text(_normal(live)) + extra_comments(live)


def _normal(live: Live) -> dict[str, Any]:
    """The normal form; within a model's settings of free form, values that may be secret are hidden."""
    if not isinstance(live, LiveModel):
        return normal_form(live.document, sort=False)
    shown = {"config": shown_free(live.normal["config"])} if "config" in live.normal else {}
    settings = {key: shown_free(item) for key, item in live.normal.get("provider_config", {}).items()}
    return live.normal | shown | ({"provider_config": settings} if settings else {})


def extra_comments(live: Live) -> str:
    """The fields of a live policy or model that its file cannot hold, as comments."""
    kind = kind_of(live.name)
    lines = [f"#   {position_name(path)}: {value(item, longest=_LONGEST)}\n" for path, item in _extras(live).items()]
    head = f"# The live {kind} also has fields that a {kind} file cannot hold; an update keeps them:\n"
    return head + "".join(lines) if lines else ""


def _extras(live: Live) -> dict[str, Any]:
    """What a file cannot hold; of a model's own secrets and of a connection that cannot be named, only that there is one."""
    kept = kept_by_updates(live.document) if isinstance(live, LiveModel) else ()
    return {**dict.fromkeys(kept, SET), **_unknown(live)}


def _unknown(live: Live) -> dict[str, Any]:
    """The fields that the format does not know. Values that may be secret are hidden."""
    if isinstance(live, LiveModel):
        fields = unknown_model_fields(live.document)
    else:
        fields = {field.path: field.value for field in unknown_fields(live.document)}
    return {path: shown_free(item, path.rpartition(".")[2], unknown=True) for path, item in fields.items()}


def _as_json(live: Live) -> dict[str, Any]:
    text = file_text(live)
    problems = [] if isinstance(text, str) else unrepresentable_reasons(text)
    unknown = _unknown(live)
    return {
        **_normal(live),
        **({"unknown_fields": unknown} if unknown else {}),
        "problems": problems,
    }


def _describe(live: Live, style: Style) -> str:
    text = file_text(live)
    also = ", ".join(map(position_name, _extras(live)))
    if isinstance(text, str):
        about = _describe_model(live.normal) if isinstance(live, LiveModel) else describe_value(live.document)
        return about + (style.paint(f"; also has {escape(also)}", "dim") if also else "")
    return f"{style.paint(f'not a valid {kind_of(live.name)}', 'yellow')}: {escape('; '.join(unrepresentable_reasons(text)))}"


def _describe_model(normal: dict[str, Any]) -> str:
    connection = f"connection {normal['app_id']}" if "app_id" in normal else "no connection"
    tags = f", tags {', '.join(normal['tags'])}" if "tags" in normal else ""
    return escape(f"{normal['model_type']}, {connection}{tags}")


def _strange(observed: LiveRows, style: Style) -> Iterator[str]:
    for twins in observed.twins:
        ids = ", ".join(map(escape, twins.ids))
        yield f"{style.paint('blocked', 'red', 'bold')}  {escape(twins.name)}: {escape(twins.reason)} (ids {ids})"
    for row in observed.unreadable:
        yield f"{style.paint('unreadable', 'red', 'bold')}  {escape(f'{row.reason} ({row.which})')}"


def pull_text(pull: Pull, observed: LiveRows, plan: Plan | None, unmanaged: int, style: Style) -> str:
    """Every written file, what was not pulled and why, and a summary as the last line. `plan` is the plan afterwards,
    `unmanaged` the number of virtual models that the directory does not manage."""
    wrote = [f"{_sign(is_new, style)} {escape(str(path))}" for path, _, is_new in pull.writes]
    notes = [f"{style.paint('note', 'cyan')}  {escape(note)}" for note in _notes(pull, observed, unmanaged)]
    blocks = [wrote, [*_rest(pull, observed, style), *notes], [_pull_summary(pull, plan, style)]]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def _sign(is_new: bool, style: Style) -> str:
    return style.paint("+", "green", "bold") if is_new else style.paint("~", "yellow", "bold")


def _rest(pull: Pull, observed: LiveRows, style: Style) -> Iterator[str]:
    for why in pull.kept.values():
        yield f"{style.paint('kept', 'yellow', 'bold')}  {escape(why)}"
    for why in pull.left.values():
        yield f"{style.paint('not pulled', 'red', 'bold')}  {escape(why)}"
    for row in observed.unreadable:
        yield f"{style.paint('note', 'cyan')}  a row of the remote is left alone: {escape(f'{row.reason} ({row.which})')}"


def _notes(pull: Pull, observed: LiveRows, unmanaged: int) -> Iterator[str]:
    """What of the remote no file holds: fields of live policies and models, and models that are not managed."""
    yield from lacking(*(observed.live[name] for name in pull.names))
    if unmanaged:
        yield (
            f"{count(unmanaged, 'virtual model')} of the remote not pulled: the directory does not manage models "
            "(write manage: [policies, models] in policyctl.yaml)"
        )


def lacking(*live: Live) -> Iterator[str]:
    """What these live policies and models have and their files cannot hold, one note for all with the same."""
    unknown = {one.name: fields for one in live if isinstance(one, LivePolicy) and (fields := unknown_fields(one.document))}
    yield from unknown_field_notes(unknown, position_name)
    alike: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for model in live:
        if isinstance(model, LiveModel) and (left := what_files_lack(model.document)):
            alike[left].append(model.name)
    for left, names in alike.items():
        who = f"model {names[0]} also has" if len(names) == 1 else f"models {listed(names)} also have"
        yield f"the live {who} {', '.join(left)}, which no file can hold; {'it is' if len(left) == 1 else 'they are'} kept"


def _pull_summary(pull: Pull, plan: Plan | None, style: Style) -> str:
    files = f"{count(len(pull.writes), 'file')} written, {len(pull.same):,} unchanged"
    if plan is None:
        return f"{style.paint('Nothing to pull.', 'bold')} The remote has nothing in scope."
    if not plan.changes:
        return f"{style.paint('Pulled', 'green', 'bold')}: {files}; the plan is empty."
    totals = ", ".join(f"{how_many(plan, action)} to {action}" for action, number in plan.totals.items() if number)
    return f"{style.paint('Pulled', 'yellow', 'bold')}: {files}; the plan is not empty: {totals}."


class UsedName(NamedTuple):
    """A policy or model by its canonical name, whether the remote has it (None: not known), and who uses it."""

    name: str
    exists: bool | None
    uses: tuple[ConsumerUse, ...]


class Usage(NamedTuple):
    """Who uses what on a remote; `unread` has by source why it could not be read."""

    environment: str
    remote: str
    used: tuple[UsedName, ...]
    unread: Mapping[str, str]
    notes: tuple[str, ...]


def usage_text(usage: Usage, style: Style) -> str:
    """Each policy and model with a line for each consumer, and what is not known."""
    blocks = [[style.paint(f"environment {escape(usage.environment)}, remote {escape(usage.remote)}", "dim")]]
    for one in usage.used:
        missing = style.paint("  not on the remote", "yellow") if one.exists is False else ""
        lines = [f"    {_use_line(use, style)}" for use in one.uses] or [style.paint(f"    {_unused(usage)}", "dim")]
        blocks.append([f"{style.paint(escape(one.name), 'bold')}{missing}", *lines])
    red = style.paint("not known", "red", "bold")
    blocks.append([f"{red}  {escape(f'{source} could not be read: {why}')}" for source, why in usage.unread.items()])
    blocks.append([f"{style.paint('note', 'cyan')}  {escape(note)}" for note in usage.notes])
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def _unused(usage: Usage) -> str:
    return "no use found in what could be read" if usage.unread else "not used"


def _use_line(use: ConsumerUse, style: Style) -> str:
    """`agent billing-bot (workspace w1): llm`, with what is in between: `through triage`."""
    who = use.consumer
    name = "" if who.kind in ("tenant default", "denylist") else f" {escape(who.name)}"
    place = who.file or (f"workspace {who.workspace}" if who.workspace else "")
    way = f", through {', '.join(map(escape, use.through))}" if use.through else ""
    return f"{who.kind}{name}{style.paint(f' ({escape(place)})', 'dim') if place else ''}{way}: {escape(use.field)}"


def usage_json(usage: Usage) -> str:
    """The same as JSON text."""
    data = {
        "format": "policyctl/consumers",
        "version": VERSION,
        "environment": usage.environment,
        "remote": usage.remote,
        "used": [
            {"name": one.name, "kind": kind_of(one.name), "exists": one.exists, "consumers": uses_data(one.uses)}
            for one in usage.used
        ],
        "unread": unread_data(usage.unread),
        "notes": list(usage.notes),
    }
    return json_text(data)


ENVIRONMENT_VERSION = 1
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
    data = {
        "format": "policyctl/environments",
        "version": ENVIRONMENT_VERSION,
        "environments": [_row(config, name) for name in names],
    }
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
    data = {"format": "policyctl/environment", "version": ENVIRONMENT_VERSION, "name": environment.name, "settings": settings}
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
