"""Names of policies and models: the canonical name, other spellings, providers, and which models a glob matches.

The platform writes `virtual-policy/anygem`; files may say `anygem`. Both are the same policy. So are `openai/gpt-4o` and
`virtual-model/openai/gpt-4o` the same model, of the provider openai.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal

from policyctl.policy.memo import late_pattern

POLICY_PREFIX = "virtual-policy/"
MODEL_PREFIX = "virtual-model/"
PREFIXES = (POLICY_PREFIX, MODEL_PREFIX)
MAX_NAME_LENGTH = 512

_GLOB = frozenset("*?[")

# Characters that Python counts as printable and nothing shows: Unicode's Default_Ignorable_Code_Point (variation selectors,
# fillers, joiners and what is reserved for more of them), and the braille pattern without dots.
_UNSEEN = late_pattern(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)


def is_visible(text: str) -> bool:
    """Whether every character of the text shows: none is a control, a direction mark or another one that leaves no trace."""
    return text.isprintable() and (text.isascii() or not _UNSEEN.search(text))


def canonical_name(name: str) -> str:
    """The one name of a policy: with the platform's prefix, which is added when missing."""
    return name if name.startswith(POLICY_PREFIX) else POLICY_PREFIX + name


def bare_name(name: str) -> str:
    """The name without the platform's prefix.

    One that has a prefix after it stays whole: without the first it would be the canonical name of another policy or a model.
    """
    return _without(POLICY_PREFIX, name)


def spellings(name: str) -> tuple[str, str]:
    """Both spellings of a policy's name: canonical first."""
    return canonical_name(name), bare_name(name)


def short_model(model_name: str) -> str:
    """A target's model as shown to people: without `virtual-model/`, which every model shares.

    One that has a prefix after it stays whole: without the first it would be shown, and matched, as a policy or another model.
    """
    return _without(MODEL_PREFIX, model_name)


def _without(prefix: str, name: str) -> str:
    bare = name.removeprefix(prefix)
    return name if bare.startswith(PREFIXES) else bare


def row_names(canonical: str) -> tuple[str, str]:
    """What a remote's row of a policy or virtual model may be called, among those of its kind: the canonical name first."""
    prefix = MODEL_PREFIX if kind_of(canonical) == "model" else POLICY_PREFIX
    bare = canonical.removeprefix(prefix)
    return canonical, canonical if bare.startswith(prefix) else bare


def canonical_model(name: str) -> str:
    """The one name of a model: `virtual-model/<provider>/<model>`, with the prefix added when missing.

    A name without a provider is the bare one, since nothing but the platform's prefix sets it apart from another word. A
    policy's whole name stays as it is, and so does the empty name, which means the model that a request asks for.
    """
    if name.startswith(POLICY_PREFIX):
        return name
    bare = short_model(name)
    return virtual_model(bare) if "/" in bare else bare


def virtual_model(name: str) -> str:
    """A virtual model's name as the platform writes it; a declaration may leave the prefix out."""
    return name if name.startswith(MODEL_PREFIX) else MODEL_PREFIX + name


def model_spelling(name: str, known: Collection[str], policies: Collection[str] = (), *, virtual: bool = False) -> str:
    """How a model is written where these names are known: unchanged if it is one of them, else in its other spelling.

    With `virtual` the virtual model comes first where both are known. An unknown model stays unchanged. So does
    one whose other spelling names one of `policies` (by canonical name): there that is the policy, and no model.
    """
    whole, bare = virtual_model(name), short_model(name)
    spellings = [whole, name] if virtual else [name, whole]
    if canonical_name(bare) not in policies:
        spellings.append(bare)
    return next((spelling for spelling in spellings if spelling in known), name)


Kind = Literal["policy", "model"]
KINDS: tuple[Kind, ...] = ("policy", "model")
PLURALS: dict[Kind, str] = {"policy": "policies", "model": "models"}


def kind_of(canonical: str) -> Kind:
    """What a canonical name names: each kind has a prefix of its own."""
    return "model" if canonical.startswith(MODEL_PREFIX) else "policy"


def counted(kinds: Iterable[Kind], word: str = "") -> str:
    """How many there are of each kind: `1 policy`, `2 policies and 3 models`; of nothing, `0 policies`. A `word` comes before
    each kind."""
    numbers = Counter(kinds)
    found = [kind for kind in KINDS if numbers[kind]] or ["policy"]
    return " and ".join(f"{numbers[kind]:,} {word}{kind if numbers[kind] == 1 else PLURALS[kind]}" for kind in found)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether the name of a policy or a virtual model, in either spelling, matches one of the globs (case counts, `*` crosses
    `/`)."""
    return _matches(name, tuple(patterns))


def within(globs: Iterable[str], others: Collection[str]) -> bool:
    """Whether all names of one of the globs are those of these others too, as far as the text of it shows."""
    return any(glob in others or matches(canonical(glob), others) for glob in globs)


@lru_cache(maxsize=10_000)  # environments ask the same of the same names
def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fits(spelling, pattern) for pattern in patterns for spelling in both_spellings(name))


def fits(name: str, glob: str) -> bool:
    """Whether a name matches a glob (case counts, `*` crosses `/`). Most globs are plain names, which need no pattern."""
    return name == glob if _GLOB.isdisjoint(glob) else fnmatchcase(name, glob)


def both_spellings(name: str) -> tuple[str, str]:
    """Both spellings of the canonical name of a policy or a virtual model: canonical first."""
    return (name, short_model(name)) if kind_of(name) == "model" else spellings(name)


def canonical(name: str) -> str:
    """The canonical name of what people, or a target, call so: a virtual model where the prefix shows it, whatever policies are
    called, else a policy."""
    return name if kind_of(name) == "model" else canonical_name(name)


def name_error(name: str) -> str | None:
    """Why this cannot be a policy's name in a file, or None when it can."""
    bare = bare_name(name)
    if not bare:
        return "name must not be empty"
    if bare != bare.strip():
        return "name must not start or end with white space"
    if bare.startswith(PREFIXES):
        return f"name must have {POLICY_PREFIX} once, at most, and not {MODEL_PREFIX}"
    if not is_visible(bare):
        return "name must not contain control characters or invisible ones"
    if not _GLOB.isdisjoint(bare):
        return "name must not contain *, ? or [, which are wildcards in patterns"
    if "\\" in bare or '"' in bare:  # it would be shown as a name with an escaped letter is, or as two texts in quotes
        return "name must not contain a backslash or a quotation mark"
    if "  " in bare:
        return "name must not contain several spaces in a row"
    if len(name) > MAX_NAME_LENGTH:
        return f"name must have at most {MAX_NAME_LENGTH} characters, has {len(name)}"
    return None


@lru_cache(maxsize=4096)
def provider_of(model: str) -> str | None:
    """The provider in a model's name, in either spelling: the part before the first `/` after `virtual-model/`.

    After further prefixes as well, which no file may have: there IBM's CLI finds it, and so it is what is written (see
    `provider_key`).
    """
    if model.startswith(POLICY_PREFIX):
        return None
    while model.startswith(PREFIXES):
        model = model.partition("/")[2]
    provider, slash, _ = model.partition("/")
    return provider if slash and provider else None


def short_names(models: Iterable[str]) -> dict[str, str]:
    """What to call each model: without its provider where that still names one model only."""
    all_models = list(dict.fromkeys(models))
    bare = [model.rpartition("/")[2] for model in all_models]
    return {
        model: name if name and bare.count(name) == 1 else short_model(model)
        for model, name in zip(all_models, bare, strict=True)
    }


def model_names_in(model: str) -> tuple[str, ...]:
    """What a model may be called: in full, without the prefix, by its provider, by its last part."""
    short = short_model(model)
    whole = model if model.startswith(POLICY_PREFIX) else virtual_model(short)
    return whole, short, provider_of(model) or short, model.rpartition("/")[2]


def matching_models(pattern: str, models: Iterable[str]) -> tuple[str, ...]:
    """The models of which one of these names fits the glob (case counts, `*` crosses `/`)."""
    return tuple(model for model in models if any(fits(name, pattern) for name in model_names_in(model)))
