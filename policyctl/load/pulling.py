"""Live policies as files: which file to write, and what cannot be written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from policyctl.core.change import equal
from policyctl.core.order import find_cycle
from policyctl.core.settings import Settings
from policyctl.load.homes import Homes
from policyctl.load.write import policy_text, reasons
from policyctl.model.live import Live, Observed
from policyctl.model.normal import references
from policyctl.model.policy import Policy


@dataclass(slots=True)
class Pull:
    """What pulling would do: (path, text, whether it is new) to write, and how many files say the live policy already.

    `kept` are files that say otherwise and may not be overwritten, `left` live policies that cannot be written; both as
    sentences. `names` are those of all live policies that were looked at.
    """

    writes: list[tuple[Path, str, bool]] = field(default_factory=list)
    unchanged: int = 0
    kept: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    names: tuple[str, ...] = ()


def plan_pull(
    observed: Observed, homes: Homes, settings: Settings, spell: Callable[[Policy], Policy], *, overwrite: bool
) -> Pull:
    """Decide about every live policy in scope. Nothing is written here.

    `spell` gives a policy with its models as the remote spells them: a file that says the same otherwise need not change.
    """
    in_scope = {name: live for name, live in sorted(observed.live.items()) if settings.in_scope(name)}
    pull = Pull(names=tuple(in_scope))
    circular = set(_circular(in_scope))
    for name, live in in_scope.items():
        if name in circular:
            pull.left.append(f"{name}: it targets itself, by way of other policies or at once; change it on the remote")
        else:
            _pull_one(live, homes, pull, spell, overwrite)
    for twins in observed.twins:
        if settings.in_scope(twins.name):
            ids = ", ".join(twins.ids)
            pull.left.append(f"{twins.name}: {twins.reason} (ids {ids})")
    return pull


def _pull_one(live: Live, homes: Homes, pull: Pull, spell: Callable[[Policy], Policy], overwrite: bool) -> None:
    home = homes.of(live.name)
    if home.policy is not None and (equal(home.policy, live) or equal(spell(home.policy), live)):
        pull.unchanged += 1
        return
    text = policy_text(live.document)
    if not isinstance(text, str):
        pull.left.append(f"{live.name}: {'; '.join(reasons(text))}")
    elif home.policy is not None and not overwrite:
        pull.kept.append(f"{home.path} says otherwise than the live {live.name}; --overwrite writes the live one over it")
    elif home.complaint is not None:
        pull.left.append(f"{live.name}: {home.path} {home.complaint}")
    else:
        pull.writes.append((home.path, text, home.policy is None))


def _circular(policies: Mapping[str, Live]) -> Iterator[str]:
    """The policies that target each other in a circle, which no directory may say."""
    graph = {name: references(live.document) for name, live in policies.items()}
    while cycle := find_cycle(graph):
        for name in cycle[:-1]:
            del graph[name]
            yield name
