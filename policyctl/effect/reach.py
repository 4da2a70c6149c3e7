"""Which models a policy can lead to, and the least that must fail before a request comes to each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from policyctl.effect.profile import is_served
from policyctl.effect.routes import Route, Routes, Step
from policyctl.model.names import short_model


class Failure(NamedTuple):
    """A model that must fail. `answers` are the statuses that do it; with `but` it is every failure except these."""

    model: str
    answers: tuple[int, ...] = ()
    but: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Condition:
    """What must fail before a model is asked, in the order of the calls; nothing for a model that gets healthy traffic."""

    failures: tuple[Failure, ...] = ()

    def said(self, names: Mapping[str, str]) -> str:
        """`when gemini-2.0-flash answers 429 or 503`, or an empty text; `names` are the models' short names."""
        alike: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str]] = {}
        for model, answers, but in self.failures:
            alike.setdefault((answers, but), []).append(names.get(model, model))
        return f"when {_listed([_said(who, *how) for how, who in alike.items()], 'and')}" if alike else ""


def reach(routes: Routes) -> dict[str, Condition]:
    """For every model that a request can come to the least condition: the fewest models failing, then the first written."""
    leaves = routes.tree.leaves
    arrivals = routes.arrivals([-1.0] * len(leaves), routes.healthy)
    best: dict[str, Route] = {}
    for leaf, route in zip(leaves, arrivals, strict=True):
        if route is not None and (leaf.model not in best or best[leaf.model].weight < route.weight):
            best[leaf.model] = route
    said: dict[tuple[str, int], Failure] = {}
    return {model: Condition(_failures(routes, route, said)) for model, route in best.items()}


def _failures(routes: Routes, route: Route, said: dict[tuple[str, int], Failure]) -> tuple[Failure, ...]:
    """The steps of a route that are failures, each once; `said` keeps those of all routes."""
    found: dict[Failure, None] = {}
    for step in route.steps:
        if not step.outcomes & routes.healthy:
            key = (step.leaf.model, step.outcomes)
            if key not in said:
                said[key] = _failure(routes, step)
            found[said[key]] = None
    return tuple(found)


def _failure(routes: Routes, step: Step) -> Failure:
    taken = routes.members(step.outcomes)
    if any(not one.codes and not is_served(one.stands) for one in taken):
        left = [one.codes for one in routes.classes if one not in taken and one.codes and not is_served(one.stands)]
        return Failure(step.leaf.model, but=_sorted(left))
    return Failure(step.leaf.model, answers=_sorted(one.codes for one in taken))


def _sorted(codes: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sorted(code for some in codes for code in some))


def _said(models: list[str], answers: tuple[int, ...], but: tuple[int, ...]) -> str:
    who, ending = _listed(models, "and"), "s" if len(models) == 1 else ""
    if answers:
        return f"{who} answer{ending} {_listed(list(map(str, answers)), 'or')}"
    return f"{who} fail{ending}" + (f" with anything but {_listed(list(map(str, but)), 'or')}" if but else "")


def _listed(words: list[str], last: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def short_names(models: Iterable[str]) -> dict[str, str]:
    """What to call each model: without its provider where that still names one model only."""
    all_models = list(dict.fromkeys(models))
    bare = [model.rpartition("/")[2] for model in all_models]
    return {
        model: name if name and bare.count(name) == 1 else short_model(model)
        for model, name in zip(all_models, bare, strict=True)
    }
