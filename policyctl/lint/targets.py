"""The lint rules on one policy: P40x to P44x on its groups, and P50x on what the effect engine finds out about it.

The groups are collected once for all rules: how many targets a group has, their weights and their names; status codes and
retries that do nothing, or not what they seem to. The rules with the effect engine take longer than the others and are asked
for; only then is the engine imported.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from policyctl.effect.gateway import NEVER_AN_OUTCOME
from policyctl.effect.tree import NOTHING, DeclaredModels, Leaf, Tree, tree_if_known
from policyctl.errors import NotKnown
from policyctl.policy.document import Document
from policyctl.policy.findings import FieldPath, Finding, format_path
from policyctl.policy.memo import late_pattern
from policyctl.policy.names import MODEL_PREFIX, POLICY_PREFIX, canonical_model, provider_of, short_model
from policyctl.rules import finding

if TYPE_CHECKING:
    from policyctl.effect.worst_case import Leg


class Group(NamedTuple):
    """One group of a policy: its path, its content, and the retry that it inherits.

    `codes` and `retry` are the group's own, None when absent; `outer_retry` is the nearest one of the groups around it;
    `live` are the targets that a request can come to.
    """

    path: FieldPath
    mode: str
    codes: list[int] | None
    retry: dict[str, Any] | None
    outer_retry: dict[str, Any] | None
    targets: list[dict[str, Any]]
    live: list[dict[str, Any]]

    @property
    def moves_on(self) -> bool:
        """Whether this is a fallback with somewhere to go and a reason to."""
        return self.mode == "fallback" and len(self.live) > 1


def can_trigger(codes: list[int] | None) -> bool:
    """Whether any result can make a fallback with this list move on; None is the default list."""
    return codes is None or not NEVER_AN_OUTCOME.issuperset(codes)


def live_targets(group: dict[str, Any]) -> list[dict[str, Any]]:
    """The targets of a group that a request can come to."""
    strategy, mode = group["strategy"], group["strategy"]["mode"]
    targets: list[dict[str, Any]] = group["targets"]
    if mode == "loadbalance" or (mode == "fallback" and can_trigger(strategy.get("on_status_codes"))):
        return targets
    return targets[:1]


def groups(document: Document) -> Iterator[Group]:
    """Every group that a request can come to, outermost first. What is wrong in a dead group does not matter."""
    pending: list[tuple[FieldPath, dict[str, Any], dict[str, Any] | None]] = [(("policy",), document["policy"], None)]
    for path, group, outer in pending:
        strategy, retry = group["strategy"], group.get("retry")
        live = live_targets(group)
        yield Group(path, strategy["mode"], strategy.get("on_status_codes"), retry, outer, group["targets"], live)
        inherited = outer if retry is None else retry
        pending += [
            ((*path, "targets", position), target, inherited) for position, target in enumerate(live) if "targets" in target
        ]


def check_groups(place: Group) -> Iterator[Finding]:
    """What is dead or alone in one group."""
    targets = len(place.targets)
    if place.mode == "single":
        if targets > 1:
            message = f"only the first target is ever called under single; {_dead(targets - 1)} (remove, or use fallback)"
            yield finding((*place.path, "targets", 1), "P401", message)
    elif targets == 1:
        yield _lone_target(place)
    elif place.mode == "fallback" and not can_trigger(place.codes):
        codes = "an empty code list triggers on nothing" if not place.codes else "no target's result has one of these codes"
        message = f"this fallback never moves on: {codes}; {_dead(targets - 1)} (list codes, or remove on_status_codes)"
        yield finding((*place.path, "strategy", "on_status_codes"), "P402", message)
    else:
        yield from _duplicates(place)


def _dead(number: int) -> str:
    return "the other target is dead" if number == 1 else f"the other {number} targets are dead"


def _lone_target(place: Group) -> Finding:
    path = (*place.path, "strategy", "mode")
    if place.mode == "fallback":
        return finding(path, "P403", "this fallback has one target and nothing to fall back on (add a target, or use single)")
    return finding(path, "P404", "this load balance has one target and always draws it (add a target, or use single)")


def _duplicates(place: Group) -> Iterator[Finding]:
    """The same model twice in one group. The same group twice is another thing: a fallback draws in it anew."""
    names = [canonical_model(target["model_name"]) for target in place.targets if "model_name" in target]
    if len(set(names)) == len(names):
        return
    first: dict[str, int] = {}
    for position, target in enumerate(place.targets):
        if "model_name" not in target:
            continue
        name = canonical_model(target["model_name"])
        if first.setdefault(name, position) == position:
            continue
        if place.mode == "fallback":
            what = "is asked again without a wait (remove it; to ask a model again after a wait, use retry)"
        else:
            what = "draws for it a second time, and the shares add up (write it once)"
        message = f"{target['model_name']} is target {first[name] + 1} already and {what}"
        yield finding((*place.path, "targets", position), "P405", message)


def check_names(place: Group) -> Iterator[Finding]:
    """Names in one group that lack a part."""
    for position, target in enumerate(place.targets):
        name = target.get("model_name")
        if name is None or name.startswith(POLICY_PREFIX):
            continue
        path = (*place.path, "targets", position, "model_name")
        if not name.startswith(MODEL_PREFIX):
            message = f"{name} begins with neither {MODEL_PREFIX} nor {POLICY_PREFIX} (write the whole name)"
            yield finding(path, "P441", message)
            continue
        provider, _, model = name[len(MODEL_PREFIX) :].partition("/")
        if not provider or not model:
            message = f"{name} lacks its provider or its model (write {MODEL_PREFIX}<provider>/<model>)"
            yield finding(path, "P442", message)


_PLACEHOLDER = late_pattern(
    r"""
      [$#]\{[^{}]*\}                       # ${NAME} and #{NAME}
    | \$\([^()]*\) | \$[A-Za-z_]\w*        # $(NAME) and $NAME
    | <[^<>]+>                             # <NAME> and <%= NAME %>
    | %\w+% | %\(\w+\)s
    | \[\[[^\[\]]*\]\] | \(\([^()]*\)\)
    | @[A-Z_][A-Z0-9_]*@ | __[A-Z][A-Z0-9_]*__
    | (?<!\{)\{[A-Za-z_][\w.-]*\}(?!\})    # {NAME}
    | \b(?:env|file|secret|vault|ssm|op):\S+
    """,
    re.VERBOSE,
)
_NAME = late_pattern(r"\b(?!(?:env|file|secret|vault|ssm|op|var|vars)\b)_*([A-Za-z]\w*?)_*\b")


def check_placeholders(place: Group) -> Iterator[Finding]:
    """Models in one group whose names contain a placeholder."""
    for position, target in enumerate(place.targets):
        if isinstance(name := target.get("model_name"), str):
            yield from in_name((*place.path, "targets", position, "model_name"), name)


@lru_cache(maxsize=8192)  # policies target the same models over and over
def _placeholder(text: str) -> re.Match[str] | None:
    return _PLACEHOLDER.search(text)


def in_name(path: FieldPath, text: str) -> Iterator[Finding]:
    """The placeholder in the name of a policy or of a model."""
    if found := _placeholder(text):
        name = _NAME.search(found[0])
        wanted = name[1] if name else "name"
        message = f'write "{{{{ {wanted} }}}}", and {wanted} under vars in policyctl.yaml'
        yield finding(
            path, "P443", f"{format_path(found[0])} is a placeholder of another tool, which nothing fills in here ({message})"
        )


def in_variables(path: FieldPath, value: Any) -> Iterator[Finding]:
    """The placeholders in a variable of an environment, at any depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from in_variables((*path, key), item)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from in_variables((*path, place), item)
    elif isinstance(value, str) and (found := _PLACEHOLDER.search(value)):
        fix = "write the value; policy files take it from vars with {{ NAME }}"
        yield finding(
            path, "P443", f"{format_path(found[0])} is a placeholder of another tool, which nothing fills in here ({fix})"
        )


_ROUNDING = 0.0005  # of one weight: thirds are written 0.333, and such a weight is the share that it looks like


def check_weights(place: Group) -> Iterator[Finding]:
    """Weights in one group that are not the shares they look like. A share is weight / sum; a missing weight is 1."""
    written = [target.get("weight") for target in place.targets]
    if not any(written):  # a weight is never 0
        return
    if place.mode != "loadbalance":
        yield from _ignored(place, written)
        return
    weights = [1 if weight is None else weight for weight in written]
    total = sum(weights)
    if len(weights) == 1 or abs(total - 1) <= _ROUNDING * len(weights):
        return
    smallest = min(weights)
    if None in written and smallest < 1:
        position = written.index(None)
        message = f"no weight counts as 1, beside {smallest:g}, so this target gets {_percent(1 / total)} (write its weight)"
        yield finding((*place.path, "targets", position), "P431", message)
    else:
        share = _percent(weights[0] / total)
        message = f"the weights sum to {total:g}, not 1, so the first target gets {share} of the requests (make them sum to 1)"
        yield finding((*place.path, "targets"), "P432", message, "key")


def _ignored(place: Group, written: list[float | None]) -> Iterator[Finding]:
    """One finding for a group, at its first weight: they all go, or none does."""
    positions = [position for position, weight in enumerate(written) if weight is not None and weight != 1]
    if positions:
        which = "this weight does" if len(positions) == 1 else f"these {len(positions)} weights do"
        message = f"{which} nothing under {place.mode} (remove {'it' if len(positions) == 1 else 'them'}, or use loadbalance)"
        yield finding((*place.path, "targets", positions[0], "weight"), "P433", message, "key")


def _percent(share: float) -> str:
    return f"{share * 100:.4g}%"


_USUAL = "[408, 429, 500, 502, 503, 504]"
_SUCCESS = frozenset(range(200, 300))
_UNWANTED = _SUCCESS | NEVER_AN_OUTCOME


def check_codes(place: Group) -> Iterator[Finding]:
    """Codes of one group's strategy and retry that are likely a mistake."""
    if place.mode != "fallback":
        if place.codes is not None:
            what = "only the first target is called" if place.mode == "single" else "the target that is drawn gives the answer"
            message = f"these codes do nothing under {place.mode}, where {what} (remove them, or use fallback)"
            yield finding((*place.path, "strategy", "on_status_codes"), "P416", message, "key")
    elif place.codes is not None:
        yield from _twice((*place.path, "strategy", "on_status_codes"), place.codes)
        if place.moves_on:
            yield from _fallback_codes(place, place.codes)
    elif place.moves_on:
        message = f"without codes every status outside 200 to 299 moves on, 400 and 401 too (list codes, such as {_USUAL})"
        yield finding((*place.path, "strategy"), "P415", message, "key")
    if place.retry is not None and (codes := place.retry.get("on_status_codes")):
        yield from _retry_codes(place, codes, place.retry["attempts"])


def _fallback_codes(place: Group, codes: list[int]) -> Iterator[Finding]:
    if _UNWANTED.isdisjoint(codes):
        return
    for position, code in enumerate(codes):
        path = (*place.path, "strategy", "on_status_codes", position)
        if code in NEVER_AN_OUTCOME:
            why = "reaches it as 500, a broken connection" if code == 407 else "makes the gateway end the request with a 500"
            yield finding(path, "P413", f"a fallback never moves on after {code}: it {why} (remove it)")
        elif code in _SUCCESS:
            message = f"{code} is a success: a good answer is thrown away and the next target is asked (remove it)"
            yield finding(path, "P411", message)


def _retry_codes(place: Group, codes: list[int], attempts: int) -> Iterator[Finding]:
    path: FieldPath = (*place.path, "retry", "on_status_codes")
    yield from _twice(path, codes)
    if not attempts or _SUCCESS.isdisjoint(codes):
        return
    for position, code in enumerate(codes):
        if code in _SUCCESS:
            message = f"{code} is a success: a good answer is thrown away and asked for again (remove it)"
            yield finding((*path, position), "P412", message)


def _twice(path: FieldPath, codes: list[int]) -> Iterator[Finding]:
    if len(set(codes)) == len(codes):
        return
    for position, code in enumerate(codes):
        if code in codes[:position]:
            yield finding((*path, position), "P414", f"{code} is in this list already (remove it, or write the code you mean)")


def check_retries(place: Group) -> Iterator[Finding]:
    """What in one group's own retry does nothing. A retry applies to each target below it without a nearer one."""
    if place.retry is None:
        return
    path, codes = (*place.path, "retry"), place.retry.get("on_status_codes")
    if not any(map(_inherits, place.live)):
        message = "this retry is never used: the targets below have their own, and the nearest holds as a whole (remove one)"
        yield finding(path, "P424", message, "key")
        return
    if place.retry.get("use_retry_after_header") and (place.retry["attempts"] == 0 or (codes is not None and 429 not in codes)):
        message = "a Retry-After counts where a 429 is retried, and this retry does not do that (list 429, or remove this)"
        yield finding((*path, "use_retry_after_header"), "P425", message, "key")
    if place.retry["attempts"] == 0:
        if codes is not None:
            message = "attempts is 0, so these codes are never looked at (raise attempts, or remove the codes)"
            yield finding((*path, "on_status_codes"), "P421", message, "key")
        elif place.outer_retry is None or place.outer_retry["attempts"] == 0:
            yield finding((*path, "attempts"), "P422", "0 attempts is what holds without a retry too (remove it, or raise it)")
    elif codes == []:
        message = "an empty code list retries no status, only broken connections (remove it for 429, 500, 502, 503, 504)"
        yield finding((*path, "on_status_codes"), "P423", message)
    names = dict.fromkeys(name for target in place.live for name in _policies(target)) if place.retry["attempts"] else ()
    if names:
        message = (
            f"it is not known whether this retry repeats {', '.join(names)} as a whole; the worst case counts that it does"
        )
        yield finding(path, "P426", f"{message} (put the retry into that policy)", "key")


def _policies(target: dict[str, Any]) -> Iterator[str]:
    """The policies among the targets for which a retry around this one holds."""
    if not _inherits(target):
        return
    if "targets" in target:
        for one in live_targets(target):
            yield from _policies(one)
    elif target["model_name"].startswith(POLICY_PREFIX):
        yield target["model_name"]


def _inherits(target: dict[str, Any]) -> bool:
    """Whether a retry around this target holds for it, or for a target in it that can be called."""
    return "targets" not in target or ("retry" not in target and any(map(_inherits, live_targets(target))))


_MAX_CALLS = 12  # of one request
_DOWN = (500, 503)


def check_deep(
    document: Document, policies: Mapping[str, Document], codes: Collection[str], declared: DeclaredModels = NOTHING
) -> Iterator[Finding]:
    """Every finding of the deep rules with these codes in one policy; targets may be `policies` (by canonical name)."""
    try:
        tree = tree_if_known(document, policies, declared)
    except NotKnown:  # by way of other policies
        return
    if "P502" in codes:
        yield from _many_calls(tree)
    if tree.unfollowed:  # it is not known what such a policy serves
        return
    if "P501" in codes:
        yield from _timeouts(document, policies, declared, tree)
    if "P503" in codes:
        yield from _single_points(tree)


def _timeouts(document: Document, policies: Mapping[str, Document], declared: DeclaredModels, tree: Tree) -> Iterator[Finding]:
    """Lists without 408 whose policy would serve more requests with it, while a model times out."""
    from policyctl.effect.outages import one_failure, outages  # imports the effect engine

    timeout = [one_failure(408)]
    lacking = [place for place in groups(document) if place.moves_on and place.codes and 408 not in place.codes]
    now = outages(tree, timeout) if lacking else None
    for place in lacking:
        with_it = outages(tree_if_known(_with_408(document, place.path), policies, declared), timeout)
        for model, row in with_it.models.items():
            if now is not None and row < now.models[model]:
                message = f"without 408 a timeout of {short_model(model)} ends the request here; another target could serve it"
                yield finding((*place.path, "strategy", "on_status_codes"), "P501", f"{message} (add 408)", "key")
                break


def _with_408(node: Any, path: FieldPath) -> Any:
    """The document with 408 added to the list of the group at a path."""
    if not path:
        strategy = node["strategy"]
        return {**node, "strategy": {**strategy, "on_status_codes": [*strategy["on_status_codes"], 408]}}
    step, rest = path[0], path[1:]
    if isinstance(node, list):
        return [_with_408(item, rest) if position == step else item for position, item in enumerate(node)]
    return {**node, step: _with_408(node[step], rest)}


def _many_calls(tree: Tree) -> Iterator[Finding]:
    attempts = sum(leaf.times * (leaf.retry.repeats + 1) for leaf in tree.leaves)
    if 2 * attempts <= _MAX_CALLS:  # an attempt takes two calls at most
        return
    from policyctl.effect.worst_case import Routes, max_calls  # as above

    routes = Routes(tree)
    if attempts * routes.attempt_calls <= _MAX_CALLS:
        return
    bound = max_calls(routes)
    if bound.value > _MAX_CALLS:
        message = f"one request may become {bound.value:g} calls, more than {_MAX_CALLS}: {_describe(bound.legs)}"
        yield finding(("policy", "strategy"), "P502", f"{message} (lower attempts, or list fewer targets)", "key")


def _describe(legs: tuple[Leg, ...]) -> str:
    """`6 × openai/gpt-4o, 6 × google/gemini-2.5-pro`; of many targets the first three."""
    said = [f"{leg.calls} × {short_model(leg.model)}" for leg in legs]
    return ", ".join(said if len(said) <= 4 else [*said[:3], f"and {len(said) - 3} more targets"])


def _single_points(tree: Tree) -> Iterator[Finding]:
    """The models, and the providers of which no one model is enough, without which nothing is served."""
    from policyctl.effect.outages import one_failure, outages  # as above

    matrix = outages(tree, list(map(one_failure, _DOWN)))
    alone = {model: failures for model, row in matrix.models.items() if (failures := _fatal(row))}
    for model, failures in alone.items():
        leaf = next(leaf for leaf in tree.leaves if leaf.model == model)
        message = f"no request is served while {short_model(model)} answers {failures}"
        yield finding(_where(leaf), "P503", f"{message} (have a fallback move on then)", "value" if leaf.path else "key")
    providers = {provider_of(model) for model in alone}
    for provider, row in matrix.providers.items():
        if provider not in providers and (failures := _fatal(row)):
            message = f"no request is served while all of {provider} answers {failures}"
            yield finding(
                ("policy", "strategy"), "P503", f"{message} (have a fallback move on to another provider then)", "key"
            )


def _fatal(row: tuple[float, ...]) -> str:
    """`500 or 503`: those of the two that leave nothing served."""
    return " or ".join(str(failure) for failure, lost in zip(_DOWN, row, strict=True) if lost == 1)


def _where(leaf: Leaf) -> FieldPath:
    """The path of a target in the document; for one of another policy, the strategy."""
    if not leaf.path:
        return "policy", "strategy"
    steps: FieldPath = ("policy",)
    for position in leaf.path:
        steps = (*steps, "targets", position)
    return *steps, "model_name"
