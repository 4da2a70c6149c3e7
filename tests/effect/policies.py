"""Random policies that the gateway runs, some of which only a remote could hold, and random answers for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from policyctl.effect.gateway import RetryAfter
from tests.strategies import _merged, _optional

_WEIGHTS = (0, 1, 0.25, 0.7, 3)
MODELS = ("virtual-model/x/a", "virtual-model/x/b", "virtual-model/y/c", "virtual-model/y/d")
TIMEOUTS = dict(zip(MODELS, (30.0, 7.5, 60.0, 1.0), strict=True))
ANSWERS = (
    *(200, 201, 204, 205, 304, 400, 407, 408, 421, 429, 500, 503, 600),
    *("refused", "hang", "broken-body", "cut-stream"),
    *map(RetryAfter, (0, 7, 31, 59, 60)),
)

codes = st.lists(st.sampled_from([200, 204, 205, 304, 400, 407, 408, 421, 429, 500, 503, 600]), max_size=4)
strategy = _merged(
    st.fixed_dictionaries({"mode": st.sampled_from(["loadbalance", "fallback", "fallback", "single"])}),
    _optional(on_status_codes=codes),
)
retry = _merged(
    st.fixed_dictionaries({"attempts": st.sampled_from([0, 1, 2, 1.5, -1])}),
    _optional(on_status_codes=codes, use_retry_after_header=st.booleans()),
)


def bodies_with(*weights: float) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies of up to five targets at any depth, with these weights."""
    leaf, group = _parts(st.sampled_from(weights))
    return group(st.recursive(leaf, group, max_leaves=5))


def _parts(weights: st.SearchStrategy[float]) -> tuple[st.SearchStrategy[Any], Callable[[Any], st.SearchStrategy[Any]]]:
    leaf = _merged(st.fixed_dictionaries({"model_name": st.sampled_from(MODELS)}), _optional(weight=weights, retry=retry))

    def group(targets: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
        required = st.fixed_dictionaries({"strategy": strategy, "targets": st.lists(targets, min_size=0, max_size=3)})
        return _merged(required, _optional(retry=retry, weight=weights))

    return leaf, group


_leaf, _group = _parts(st.sampled_from(_WEIGHTS))
bodies = bodies_with(*_WEIGHTS)
distorted_bodies = bodies_with(*_WEIGHTS, -0.5, -2)
small_bodies = _group(st.one_of(_leaf, _group(_leaf)))
constant_answers = st.dictionaries(st.sampled_from(MODELS), st.sampled_from(ANSWERS), max_size=4)
scripts = st.dictionaries(st.sampled_from(MODELS), st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=4), max_size=4)


@st.composite
def chances(draw: st.DrawFn) -> dict[Any, float]:
    """Up to three answers and their chances, in quarters."""
    answers = draw(st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=3, unique=True))
    parts = [1.0] if len(answers) == 1 else [0.25, 0.75] if len(answers) == 2 else [0.25, 0.25, 0.5]
    return dict(zip(answers, parts, strict=True))


answers = st.dictionaries(st.sampled_from(MODELS), chances(), max_size=4)


def document(body: dict[str, Any]) -> dict[str, Any]:
    """The body as a policy document."""
    return {"name": "virtual-policy/p", "policy": body}


def body_of(
    mode: str, *targets: Any, codes: list[int] | None = None, attempts: int = 0, header: bool = False
) -> dict[str, Any]:
    """A body over these targets; a text is a model's name."""
    strategy = {"mode": mode} if codes is None else {"mode": mode, "on_status_codes": codes}
    whole = [{"model_name": target} if isinstance(target, str) else target for target in targets]
    retry = {"attempts": attempts, **({"use_retry_after_header": True} if header else {})}
    return {"strategy": strategy, "targets": whole, **({"retry": retry} if attempts else {})}
