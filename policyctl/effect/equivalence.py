"""Whether two policies do the same, or one serves whatever the other serves, for every answer of every model.

Equal forms mean equal behaviour under the profile, for every answer of every model. Unequal forms may still behave alike: the
form is sound, not complete, so nothing is ever called different because of it alone. It is built of whole numbers and
fractions, never of floats. What it irons out:

* retries are those of each target, as they hold there (inherited, the usual codes, 1.5 attempts as 2; the switch for
  `Retry-After` only where 429 is asked again);
* lists are sets, without the codes that no outcome has;
* groups of one target are that target; `single` is its first target;
* a load balance in a load balance is one, with the shares multiplied; equal targets are one, with the shares added; their
  order is that of their texts;
* a fallback in a fallback with the same list is one; targets that nothing leads to are left out.

The proof goes over canonical forms and is meant for the changes that people make to be safer: one more fallback at the end, a
code more on a list, more attempts where nothing comes after. It is sound, not complete: where it finds no proof, nothing is
claimed (see `outages`, which then looks for a request that is lost).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from policyctl.effect.gateway import NO_ANSWER, RetryRule, is_served, moves_on
from policyctl.effect.tree import Balance, Fallback, Fixed, Leaf, Node, Tree
from policyctl.policy.document import Document, normal_form, references

Kind = Literal["metadata", "equivalent", "effective", "unknown"]


class ModelCall(NamedTuple):
    """Asking a model, `around` which there may be retries over the policies that lead to it."""

    model: str
    repeats: int
    codes: tuple[int, ...]
    around: tuple[tuple[int, tuple[int, ...], bool], ...] = ()
    obeys: bool = False


class Always(NamedTuple):
    """An outcome without a call."""

    outcome: int


class First(NamedTuple):
    """Asking in order, while the outcome is on the list; None is any failure."""

    codes: tuple[int, ...] | None
    forms: tuple[Form, ...]


class Drawn(NamedTuple):
    """Drawing one: the share and the form of each; drawing none is also a form."""

    forms: tuple[tuple[Fraction, Form], ...]


Form = ModelCall | Always | First | Drawn


def kind_of(before: Document, after: Document, old: Tree, new: Tree) -> Kind:
    """How a change between two documents, with their trees, is classed: `metadata` (the gateway gets the same policy),
    `unknown` (it is not known what one of them does), `equivalent` (another text that does the same under the profile), or
    `effective`.
    """
    if old.unmodelled or new.unmodelled:
        return "metadata" if same_policy(before, after) else "unknown"
    if canonical_form(old) == canonical_form(new):
        left, right = normal_form(before)["policy"], normal_form(after)["policy"]
        if left == right:
            return "metadata"
        if cache_of(left) == cache_of(right):
            return "equivalent"
    return "effective"


def same_policy(before: Document, after: Document) -> bool:
    """Whether the gateway gets the same policy from two documents."""
    return bool(normal_form(before)["policy"] == normal_form(after)["policy"])


PoliciesBelow = Mapping[str, Document | None]  # the policies that targets lead to, by name; None: not known


def policies_below(document: Document, policies: Mapping[str, Document]) -> PoliciesBelow:
    """The policies that a document's targets lead to, however deep."""
    found: dict[str, Document | None] = {}
    pending = [document]
    while pending:
        for name in references(pending.pop()) - found.keys():
            found[name] = below = policies.get(name)
            if below is not None:
                pending.append(below)
    return found


def same_policies(old: PoliciesBelow, new: PoliciesBelow) -> bool:
    """Whether two versions lead to the same policies, with the same content."""
    return old.keys() == new.keys() and all(_same_body(old[name], new[name]) for name in old)


def _same_body(one: Document | None, other: Document | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(one.get("policy") == other.get("policy") or normal_form(one)["policy"] == normal_form(other)["policy"])


def caches_of(document: Document, below: PoliciesBelow) -> dict[str, Any]:
    """The answer caches of a policy and of those that it leads to. An analysis has none: a cache answers without any call."""
    bodies = {"": document.get("policy"), **{name: (other or {}).get("policy") for name, other in below.items()}}
    return {name: body["cache"] for name, body in bodies.items() if isinstance(body, dict) and "cache" in body}


def tells_apart(form: Form, code: int) -> bool:
    """Whether a list in a form has a code: whether the policy does something special after it."""
    if isinstance(form, ModelCall):
        return code in form.codes or any(code in codes for _, codes, _ in form.around)
    if isinstance(form, First):
        return (form.codes is not None and code in form.codes) or any(tells_apart(one, code) for one in form.forms)
    return isinstance(form, Drawn) and any(tells_apart(one, code) for _, one in form.forms)


def canonical_form(tree: Tree) -> Form:
    """The canonical form of a policy, comparable and hashable. It excludes the answer cache."""
    return _form(tree.root)


def without_shares(form: Form) -> object:
    """A form without the shares of its draws: equal where two policies differ in weights only."""
    if isinstance(form, Drawn):
        return "drawn", tuple(sorted((repr(without_shares(one)) for _, one in form.forms)))
    if isinstance(form, First):
        return "first", form.codes, tuple(map(without_shares, form.forms))
    return form


def cache_of(policy: Any) -> Any:
    """The answer cache of a policy's body. It answers requests without any call; two are the same only if equal."""
    return policy.get("cache") if isinstance(policy, dict) else None


def _form(node: Node) -> Form:
    if isinstance(node, Leaf):
        around = tuple((retry.repeats, _codes(retry), retry.obeys) for retry in node.around)
        return ModelCall(node.model, node.retry.repeats, _codes(node.retry), around, node.retry.obeys)
    if isinstance(node, Fixed):
        return Always(node.outcome)
    if isinstance(node, Balance):
        return _drawn(node)
    return _first(node)


def _codes(retry: RetryRule) -> tuple[int, ...]:
    """The codes that matter: 407 is asked again without them; where nothing is repeated, only 204 ends otherwise, and a 429
    may have to be waited for.
    """
    alone = {204, 429} if retry.obeys else {204}
    return tuple(sorted(code for code in retry.codes if code != 407 and (retry.repeats or code in alone)))


def _drawn(node: Balance) -> Form:
    shares: dict[Form, Fraction] = {}
    for part, target in zip(node.draw.parts, node.targets, strict=True):
        form, share = _form(target), Fraction(part, node.draw.total)
        for own, inner in form.forms if isinstance(form, Drawn) else ((Fraction(1), form),):
            shares[inner] = shares.get(inner, Fraction(0)) + share * own
    if left := 1 - sum(shares.values()):
        nothing = Always(NO_ANSWER)
        shares[nothing] = shares.get(nothing, Fraction(0)) + left
    if len(shares) == 1:
        return next(iter(shares))
    return Drawn(tuple(sorted(((share, form) for form, share in shares.items()), key=lambda drawn: repr(drawn[1]))))


def _first(node: Fallback) -> Form:
    codes = None if node.codes is None else tuple(sorted(node.codes))
    forms: list[Form] = []
    for target in node.targets:
        form = _form(target)
        forms += form.forms if isinstance(form, First) and form.codes == codes else [form]
    kept = list(_led_to(forms, node.codes))
    return kept[0] if len(kept) == 1 else First(codes, tuple(kept))


def _led_to(forms: list[Form], codes: frozenset[int] | None) -> Iterator[Form]:
    """The forms that something leads to, without those that call no model and are always skipped."""
    for form in forms[:-1]:
        passed = isinstance(form, Always) and moves_on(form.outcome, codes)
        if not passed:
            yield form
        if codes == frozenset() or (isinstance(form, Always) and not passed):
            return
    yield forms[-1]


def covers(new: Form, old: Form) -> bool:
    """Whether `new` serves every request that `old` serves, for every answer of every call and every draw."""
    if new == old or (isinstance(old, Always) and not is_served(old.outcome)):
        return True
    if isinstance(new, ModelCall):
        return isinstance(old, ModelCall) and _asks_on(new, old)
    if isinstance(new, Drawn):
        return isinstance(old, Drawn) and _draws_alike(new, old)
    if not isinstance(new, First) or not _only_failures(new.codes):
        return False
    if isinstance(old, First):
        return _only_failures(old.codes) and _falls_on(new, old)
    return covers(new.forms[0], old)


def _asks_on(new: ModelCall, old: ModelCall) -> bool:
    """What served after some repeats still does: each answer before it is repeated as well.

    One that obeys a `Retry-After` may end its attempts at it.
    """
    if new.model != old.model or not _only_failures(new.codes) or new.obeys > old.obeys:
        return False
    return _repeats_on(new.repeats, new.codes, old.repeats, old.codes) and _repeats_around(new, old)


def _repeats_on(repeats: int, codes: tuple[int, ...], old_repeats: int, old_codes: tuple[int, ...]) -> bool:
    return repeats >= old_repeats and (not old_repeats or set(codes) >= set(old_codes))


def _repeats_around(new: ModelCall, old: ModelCall) -> bool:
    """Whether the policies that lead there are repeated at least as often, should retries around them do that."""
    if new.around == old.around or not old.around:
        return all(_only_failures(codes) for _, codes, _ in new.around)
    return len(new.around) == len(old.around) and all(
        _only_failures(codes) and obeys <= old_obeys and _repeats_on(repeats, codes, old_repeats, old_codes)
        for (repeats, codes, obeys), (old_repeats, old_codes, old_obeys) in zip(new.around, old.around, strict=True)
    )


def _draws_alike(new: Drawn, old: Drawn) -> bool:
    """The same shares, and each part covers its counterpart."""
    left = list(new.forms)
    for share, form in old.forms:
        place = next((at for at, (own, other) in enumerate(left) if own == share and covers(other, form)), None)
        if place is None:
            return False
        del left[place]
    return True


def _falls_on(new: First, old: First) -> bool:
    """The same targets up to the last of the old ones, moving on whenever the old one did; that one only has to cover.

    A target before the last may not be asked more often: what it ends with then may be on no list.
    """
    *before, last = old.forms
    if len(new.forms) < len(old.forms) or new.forms[: len(before)] != tuple(before) or not _falls_more(new.codes, old.codes):
        return False
    return covers(new.forms[len(before)], last)


def _falls_more(new: tuple[int, ...] | None, old: tuple[int, ...] | None) -> bool:
    if old is None or new is None:
        return new is None
    return set(new) >= set(old)


def _only_failures(codes: tuple[int, ...] | None) -> bool:
    return codes is None or not any(map(is_served, codes))
