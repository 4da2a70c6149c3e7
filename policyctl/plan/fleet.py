"""One run over many environments: what became of each, which of them are alike, in which order they go, and its exit code."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

from policyctl.errors import PolicyctlError
from policyctl.plan.approval import NONE, Terms
from policyctl.plan.diff import FieldChange
from policyctl.plan.plan import Plan
from policyctl.plan.safety import Review
from policyctl.plan.settings import Override
from policyctl.policy.document import digest
from policyctl.policy.findings import listed

Status = Literal["planned", "applied", "done", "failed", "suspended", "not begun"]
MIXED = 5  # the exit code when some environments failed, and not all for one reason
WAVES_FROM = 21  # environments from which on an apply has waves, if none are configured
_FIRST_SHARE = 10  # percent of the environments that such a second wave has


class Marks(NamedTuple):
    """Hashes of a plan, by which the plans of several merges can be added up: of its changes (`prints`, with the names of what
    `changed`), of what it does by way of other policies (`traffic`), and of what else the branch changes in the files
    (`replaces`; None if that is not known)."""

    prints: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    traffic: Mapping[str, str] = MappingProxyType({})
    replaces: tuple[str, ...] | None = None


_NO_MARKS = Marks()


def marks_of(plan: Plan) -> Marks:
    """The hashes of a plan."""
    return Marks(plan.prints, plan.changed, plan.traffic, plan.replaces)


@dataclass(frozen=True, slots=True)
class EnvironmentResult:
    """What became of one environment. `code` is the exit code that it alone would have; `reason` is why it failed.

    `alike` is a hash of what is shown of its plan besides its name, its remote and who uses what: plans that share it are shown
    once. `users` is a hash of who uses what, `access` of how the remote is reached. `rest` is what the plan leaves alone, in
    words, and `outcome` the summary of an apply.
    `review` is kept for one environment of each kind of plan only, `marks` where the plans are saved or approved. `whole` is
    whether everything that the files manage was compared.
    """

    name: str
    status: Status
    code: int = 0
    reason: str = ""
    remote: str = ""
    digest: str = ""
    alike: str = ""
    users: str = ""
    rest: str = ""
    access: str = ""
    counts: Mapping[str, int] | None = None
    outcome: str = ""
    review: Review | None = None
    marks: Marks = _NO_MARKS
    whole: bool = True

    @property
    def failed(self) -> bool:
        """Whether it counts as a failure."""
        return self.status == "failed"

    @property
    def changes(self) -> int:
        """How many changes its plan has."""
        return sum((self.counts or {}).values())


class FleetResult(NamedTuple):
    """The results of a run in the order of the environments; `left_out` is how many the selection leaves out, and `gone` are
    environments that the base revision has and the files do not, `settings` what the branch changes in policyctl.yaml.

    `selection` is which environments were asked for, as text (see `EnvironmentFilter.text`), `terms` how all of them are
    reached and which safety settings they have, where the plans have a base, `overrides` what is overridden for the plans.
    """

    command: str
    results: tuple[EnvironmentResult, ...]
    left_out: int = 0
    gone: tuple[str, ...] = ()
    settings: tuple[FieldChange, ...] = ()
    selection: str = "*"
    terms: Terms | None = None
    overrides: tuple[Override, ...] = ()

    @property
    def shown(self) -> str:
        """The hash of all plans, and of how each remote is reached, also where some failed. A suspended one has none."""
        return digest({name: list(part) for name, part in self.parts.items()})

    @property
    def digest(self) -> str:
        """The same hash if each plan could be made and may be applied, else `none`."""
        return NONE if any(one.failed or one.status == "not begun" for one in self.results) else self.shown

    @property
    def parts(self) -> dict[str, tuple[str, str]]:
        """What the digest is made of: by environment the hashes of its plan and of how its remote is reached."""
        return {one.name: (one.digest, one.access) for one in self.results if one.status != "suspended"}

    @property
    def prints(self) -> tuple[str, ...]:
        """The hashes of all changes; each is that of a change in one environment."""
        return tuple(mark for one in self.results for mark in one.marks.prints)

    @property
    def replaces(self) -> tuple[str, ...] | None:
        """Hashes of what else the branch changes in these environments; None unless that is known of each: one that was not
        planned is not compared."""
        found = [one.marks.replaces for one in self.results]
        return None if None in found else tuple(mark for marks in found for mark in marks or ())

    @property
    def changed(self) -> tuple[str, ...]:
        """What each of these changes, and where."""
        return tuple(f"{name} in {one.name}" for one in self.results for name in one.marks.changed)

    @property
    def environments(self) -> dict[str, int]:
        """How many of these changes are in which environment."""
        return {one.name: len(one.marks.prints) for one in self.results if one.marks.prints}

    @property
    def traffic(self) -> dict[str, str]:
        """What the plans do by way of other policies, by environment and policy."""
        return {f"{name} in {one.name}": mark for one in self.results for name, mark in one.marks.traffic.items()}

    @property
    def changes(self) -> int:
        """How many changes there are in all environments."""
        return sum(one.changes for one in self.results)

    @property
    def whole(self) -> bool:
        """Whether everything was compared that the files manage in these environments: a suspended one was not."""
        return all(one.whole and not one.failed and one.status not in ("not begun", "suspended") for one in self.results)

    @property
    def by_reason(self) -> list[tuple[str, list[EnvironmentResult]]]:
        """The failed environments by reason, the most frequent first. One that only one of them has is whole."""
        found: defaultdict[str, list[EnvironmentResult]] = defaultdict(list)
        for one in self.results:
            if one.failed:
                found[general(one)].append(one)
        reasons = [(reason if len(group) > 1 else group[0].reason, group) for reason, group in found.items()]
        return sorted(reasons, key=lambda item: -len(item[1]))

    @property
    def groups(self) -> list[list[EnvironmentResult]]:
        """The environments with changes, or whose plan is refused, in groups of the same plan; the largest first."""
        found: defaultdict[str, list[EnvironmentResult]] = defaultdict(list)
        for one in self.results:
            if one.alike and (one.changes or one.failed):
                found[one.alike].append(one)
        return sorted(found.values(), key=len, reverse=True)

    def count(self, status: Status) -> int:
        """How many environments ended so."""
        return Counter(one.status for one in self.results)[status]

    def exit_code(self, *, detailed: bool = False) -> int:
        """0 when all went well (2 with changes, if `detailed`); the code of the failures if every environment failed with it;
        else 5."""
        codes = {one.code for one in self.results if one.failed}
        if not codes and not self.count("not begun"):
            return 2 if detailed and any(one.changes for one in self.results) else 0
        judged = [one for one in self.results if one.status != "suspended"]
        alone = len(codes) == 1 and all(one.failed for one in judged)
        return codes.pop() if alone else MIXED


class ApprovedPlans(NamedTuple):
    """The plans of several environments that were approved: their digest, and what it is made of (see `FleetResult.parts`)."""

    digest: str
    parts: Mapping[str, tuple[str, str]]

    def differences(self, now: FleetResult) -> Iterator[str]:
        """In words, which environments make the digest another one, and how."""
        new, old = now.parts, self.parts
        failed = [one.name for one in now.results if one.failed]
        both = [name for name in old if name in new and name not in failed]
        for what, names in (
            ("cannot be planned now", failed),
            ("another plan", [name for name in both if new[name][0] != old[name][0]]),
            ("reached in another way (remote, auth or ca_file)", [name for name in both if new[name][1] != old[name][1]]),
            ("not among the approved plans", [name for name in new if name not in old and name not in failed]),
            ("suspended or not selected now", [name for name in old if name not in new]),
        ):
            if names:
                yield f"{what}: {listed(names)}"


def read_approved(text: str, file: str) -> ApprovedPlans:
    """The plans in a report of several environments as JSON. Raises PolicyctlError for any other text, and for plans that
    approve nothing because one of them failed."""
    try:
        data = json.loads(text)
        rows = data["environments"]
        named = rows.items() if isinstance(rows, dict) else [(one["name"], one) for one in rows]
        kept = {str(name): one for name, one in named if one["status"] != "suspended"}
        parts = {name: (str(one["digest"]), str(one["access"])) for name, one in kept.items()}
        whole = digest({name: list(part) for name, part in parts.items()})
        stated = data["digest"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise PolicyctlError(f"{file} has no plans of several environments; write it with plan --report json={file}") from None
    if stated == NONE:
        raise PolicyctlError(f"{file} approves nothing, because not every environment in it has a plan that may be applied")
    if stated != whole:
        raise PolicyctlError(f"{file} was changed after it was made: its plans do not have the digest that it states")
    return ApprovedPlans(whole, parts)


def general(result: EnvironmentResult) -> str:
    """A reason without what only names the environment, so that equal failures are counted together."""
    text = result.reason
    for own in filter(None, (result.remote, result.remote.rpartition("://")[2], result.name)):
        before = "" if own.startswith("/") else r"(?<![\w.-])"  # a name is left out as a whole word
        text = re.sub(rf"{before}{re.escape(own)}(?![\w-]|\.\w)", "…", text)
    return text


class WaveOf(NamedTuple):
    """Environments that go together, and how many of them may fail before later waves are held back."""

    names: tuple[str, ...]
    max_failures: int | None = 0


def waves_of(names: Sequence[str], waves: Sequence[tuple[Callable[[str], bool], int]], *, by_default: bool) -> list[WaveOf]:
    """The environments in waves, each in the first one that takes it; the rest comes last.

    Without any configured, and `by_default`: from `WAVES_FROM` environments on the first one goes alone, then a tenth.
    """
    if not waves:
        if not by_default or len(names) < WAVES_FROM:
            return [WaveOf(tuple(names), None)]
        tenth = 1 + max(1, len(names) * _FIRST_SHARE // 100)
        return [WaveOf(tuple(names[:1])), WaveOf(tuple(names[1:tenth])), WaveOf(tuple(names[tenth:]), None)]
    left, found = list(names), []
    for takes, most in waves:
        own = tuple(name for name in left if takes(name))
        left = [name for name in left if name not in set(own)]
        found.append(WaveOf(own, most))
    return [wave for wave in [*found, WaveOf(tuple(left), None)] if wave.names]


DIGESTS = "policyctl/saved-plans"  # the format of what `write_plans` writes
VERSION = 1


def write_plans(fleet: FleetResult) -> str:
    """The plans of several environments as text, for what shows and approves them: their hashes, not what they change."""
    saved = {
        "format": DIGESTS,
        "version": VERSION,
        "selection": fleet.selection,
        "digest": fleet.digest,
        "shown": fleet.shown,
        "overrides": [override._asdict() for override in fleet.overrides],
        "environments": {one.name: _saved(one) for one in fleet.results},
    }
    return json.dumps({**saved, "checksum": digest(saved)}, indent=2) + "\n"


def _saved(one: EnvironmentResult) -> dict[str, Any]:
    kept = {"status": one.status, "remote": one.remote, "digest": one.digest, "access": one.access, "whole": one.whole}
    counts = {key: number for key, number in (one.counts or {}).items() if number}
    marks = {"prints": list(one.marks.prints), "changed": list(one.marks.changed), "traffic": dict(one.marks.traffic)}
    replaces = {} if one.marks.replaces is None else {"replaces": list(one.marks.replaces)}
    return kept | {"changes": counts} | {key: value for key, value in marks.items() if value} | replaces


_MORE = ("reason", "alike", "users", "rest", "outcome")


def write_result(one: EnvironmentResult) -> dict[str, Any]:
    """A result as plain values, without its name and review."""
    planned = _saved(one) if one.counts is not None else {**_saved(one), "changes": None}
    return planned | {"code": one.code} | {key: getattr(one, key) for key in _MORE}


def read_result(name: str, data: Mapping[str, Any]) -> EnvironmentResult:
    """The result of plain values that `write_result` made. Raises KeyError, TypeError or ValueError for others."""
    reason, alike, users, rest, outcome = (str(data[key]) for key in _MORE)
    found = _result_from(name, data)
    return replace(found, code=int(data["code"]), reason=reason, alike=alike, users=users, rest=rest, outcome=outcome)


def read_plans(text: str, file: str) -> FleetResult | None:
    """The plans of a text that `write_plans` wrote; None for a text of another format. Raises PolicyctlError for one that is
    truncated, edited, or of another version."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or data.get("format") != DIGESTS:
        return None
    if data.get("version") != VERSION:
        raise PolicyctlError(f"{file} has plans of version {data.get('version')!r}; make them again with this policyctl")
    try:
        fleet = _plans_from(data)
        whole = digest({key: value for key, value in data.items() if key != "checksum"}) == data["checksum"]
        if whole and (fleet.shown, fleet.digest) == (data["shown"], data["digest"]):
            return fleet
    except (KeyError, TypeError, AttributeError, ValueError):
        pass
    raise PolicyctlError(f"{file} was changed after it was made; make it again with plan --out")


def _plans_from(data: Mapping[str, Any]) -> FleetResult:
    results = tuple(_result_from(str(name), one) for name, one in data["environments"].items())
    overrides = tuple(Override(**one) for one in data["overrides"])
    return FleetResult("plan", results, selection=str(data["selection"]), overrides=overrides)


def _result_from(name: str, one: Mapping[str, Any]) -> EnvironmentResult:
    (status,) = (known for known in get_args(Status) if known == one["status"])
    replaces = tuple(one["replaces"]) if "replaces" in one else None
    marks = Marks(tuple(one.get("prints", ())), tuple(one.get("changed", ())), dict(one.get("traffic", {})), replaces)
    changes = one["changes"]
    counts = None if changes is None else {str(action): int(number) for action, number in changes.items()}
    return EnvironmentResult(
        name,
        status,
        remote=str(one["remote"]),
        digest=str(one["digest"]),
        access=str(one["access"]),
        counts=counts,
        marks=marks,
        whole=bool(one["whole"]),
    )
