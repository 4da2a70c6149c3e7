"""The lint rules on what was loaded: policy by policy, and across the files of a directory, without what comments suppress.

Across files (P45x) these are names that no file declares, and targets that are declared with another type than the others; of
a virtual model (P48x) its provider, settings that do nothing, and credentials; of policyctl.yaml settings that do nothing
(P46x, P473), which are globs of `include` without files and names without policies, and placeholders in variables.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING

from policyctl.effect.tree import DeclaredModels, read_tree
from policyctl.errors import Mark, PolicyctlError, Problem, errors_in
from policyctl.lint import targets
from policyctl.lint.targets import groups, in_variables
from policyctl.load.directory import FileResult, Files, Loaded
from policyctl.load.environment import Config, Environment, dotted
from policyctl.load.source import Source, redact_linked
from policyctl.load.yaml import IgnoreComment, ignore_comments, to_problems
from policyctl.plan.consumers import path_of
from policyctl.plan.references import named_targets
from policyctl.policy.document import Document, Policy
from policyctl.policy.findings import FieldPath, Finding, closest_name, did_you_mean, format_path
from policyctl.policy.model_settings import PROVIDERS, SERVER_PROVIDERS, SETTINGS, provider_key, required
from policyctl.policy.names import (
    MODEL_PREFIX,
    POLICY_PREFIX,
    bare_name,
    canonical,
    canonical_model,
    matches,
    provider_of,
    short_model,
    virtual_model,
)
from policyctl.rules import DEEP_CODES, DEFAULT_CODES, LINT_CODES, REFERENCE_CODES, RULES, finding, guess_rule, severity_of

if TYPE_CHECKING:
    from policyctl.load.directory import Files


def check_model(document: Document) -> Iterator[Finding]:
    """P48x: what is worth knowing of a model that can be applied."""
    provider = provider_key(virtual_model(document["name"]))
    config = document.get("provider_config") or {}
    if provider not in PROVIDERS:
        note = "the platform's server documents it and its own CLI refuses it" if provider in SERVER_PROVIDERS else "unknown"
        guess = did_you_mean(str(provider), PROVIDERS) if provider not in SERVER_PROVIDERS else ""
        yield finding(("name",), "P481", f"provider {format_path(provider)}: {note}{guess}")
    for key in config:
        used_by = SETTINGS[key].providers if key in SETTINGS else ()
        if used_by and provider not in used_by:
            message = f"{key} is used by {' and '.join(used_by)} only, not by {provider} (remove it, or correct the name)"
            yield finding(("provider_config", key), "P482", message, "key")
    if not document.get("app_id"):
        missing = [" or ".join(keys) for keys in required(provider) if not any(config.get(key) for key in keys)]
        if missing:
            from policyctl.policy.model_schema import CONNECT  # imports pydantic's models of a provider

            message = f"{provider} needs {' and '.join(missing)}, and no connection is named that may hold it: {CONNECT}"
            yield finding(("name",), "P483", message)
    if "anthropic" in document["name"] and "max_tokens" not in (document.get("config") or {}):
        message = "anthropic models have no default for max_tokens and calls without it fail; write config.max_tokens"
        yield finding(("name",), "P485", message)


_MAX_GUESSED = 500  # looking for a near miss among more names takes longer than it helps


def check_references(
    document: Document, policies: frozenset[str], models: frozenset[str], speaks_for: Callable[[str], bool]
) -> Iterator[Finding]:
    """Targets of one policy that are neither among the directory's `policies` nor among its `models` (canonical names).

    `speaks_for` is whether a policy of that name can exist only as a file. A model may well be declared elsewhere, so it
    is one only when the directory declares models of its provider, or one of nearly that name.
    """
    for path, name in named_targets(document):
        if name.startswith(POLICY_PREFIX):
            if name not in policies and speaks_for(name):
                guess = _guess(name, POLICY_PREFIX, policies)
                yield finding(path, "P451", f"no file here declares the policy {name}{guess}")
        elif models and provider_of(name) and canonical_model(name) not in models and canonical(name) not in policies:
            guess = _guess(name, MODEL_PREFIX, models)
            if guess or provider_of(name) in _providers(models):
                yield finding(path, "P452", f"{name} is none of the virtual models that the files here declare{guess}")


def check_uses(
    uses: Iterable[tuple[str, str]],
    policies: frozenset[str],
    models: frozenset[str],
    speaks_for: Callable[[str], bool],
    *,
    managed: bool,
) -> Iterator[Finding]:
    """The names that a file of another kind uses, as (place, name), and that nothing here declares. `managed` is whether the
    directory manages models, so that it may speak for one. Only names with a prefix count: others may be built-in models."""
    for place, name in uses:
        if name.startswith(POLICY_PREFIX) and name not in policies and speaks_for(name):
            message = f"no file here declares the policy {name}{_guess(name, POLICY_PREFIX, policies)}"
            yield finding(path_of(place), "P454", message)
        elif name.startswith(MODEL_PREFIX) and name not in models:
            guess = _guess(name, MODEL_PREFIX, models)
            if guess or (managed and speaks_for(name)) or provider_of(name) in _providers(models):
                yield finding(path_of(place), "P454", f"no file here declares the virtual model {name}{guess}")


@lru_cache(maxsize=8)
def _providers(models: frozenset[str]) -> frozenset[str | None]:
    return frozenset(map(provider_of, models))


@lru_cache(maxsize=4096)  # thousands of policies target the same few models
def _guess(name: str, prefix: str, known: frozenset[str]) -> str:
    """A near miss among the known names."""
    return "" if len(known) > _MAX_GUESSED else did_you_mean(name, sorted(known), prefix, cutoff=0.8)


def check_types(document: Document, policies: Mapping[str, Document], declared: DeclaredModels) -> Iterator[Finding]:
    """Every target of one policy that never serves because of its type: a model, or one of `policies`."""
    try:
        tree = read_tree(document, policies, declared)
        for path, name in named_targets(document) if tree.unfit else ():
            if inner := policies.get(canonical(name)):
                kind = read_tree(inner, policies, declared).takes
                what = f"{bare_name(name)} takes {kind} requests" if kind not in (None, tree.takes) else ""
            else:
                unfit = tree.unfit.get(canonical_model(name))
                what = f"{short_model(name)} is declared as {unfit}" if unfit else ""
            if what:
                fails = f"this policy takes {tree.takes} requests: all of them fail there"
                yield finding(path, "P453", f"{what}, and {fails} (use a target that takes {tree.takes} requests)")
    except PolicyctlError:  # by way of other policies, nested too deeply: nothing is known
        return


class Suppressions:
    """The ignore comments of some files, and which of their codes have suppressed a finding so far.

    A comment holds for its line: `# policyctl: ignore[P405]`, or several codes with commas.
    """

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self.contents = contents
        self._comments: dict[str, tuple[IgnoreComment, ...]] = {}
        self._lines: dict[str, dict[int, list[IgnoreComment]]] = {}
        self._used: set[tuple[Mark, str]] = set()

    def without_ignored(self, problems: list[Problem]) -> list[Problem]:
        """The problems that no comment suppresses. Only findings of lint rules can be suppressed."""
        return [problem for problem in problems if problem.code not in LINT_CODES or not self._suppresses(problem)]

    def problems(self, judged: Collection[str], files: Collection[str]) -> Iterator[Problem]:
        """What is wrong with the comments of these files. A code is reported as useless only if its rule was `judged`."""
        for file in files:
            for comment in self._comments_of(file):
                yield from self._problems_of(comment, judged)

    def _problems_of(self, comment: IgnoreComment, judged: Collection[str]) -> Iterator[Problem]:
        if not comment.codes:
            yield _comment_problem(comment.mark, "P492", "this comment does not name a rule (write # policyctl: ignore[CODE])")
        for code, mark in comment.codes:
            if complaint := _wrong_code(code):
                yield _comment_problem(mark, "P492", complaint)
            elif code in judged and (mark, code) not in self._used:
                yield _comment_problem(mark, "P491", f"there is no {code} on this line to suppress (remove the comment)")

    def _suppresses(self, problem: Problem) -> bool:
        uses = [
            (mark, code)
            for comment in self._on_lines(problem.mark.file).get(problem.mark.line, ())
            for code, mark in comment.codes
            if code == problem.code
        ]
        self._used.update(uses)
        return bool(uses)

    def _on_lines(self, file: str) -> dict[int, list[IgnoreComment]]:
        """The comments of a file by their lines."""
        if file not in self._lines:
            self._lines[file] = defaultdict(list)
            for comment in self._comments_of(file):
                self._lines[file][comment.mark.line].append(comment)
        return self._lines[file]

    def _comments_of(self, file: str) -> tuple[IgnoreComment, ...]:
        if file not in self._comments:
            self._comments[file] = self._read(file)
        return self._comments[file]

    def _read(self, file: str) -> tuple[IgnoreComment, ...]:
        if b"policyctl:" not in self.contents.get(file, b"") or file.endswith(".json"):  # JSON has no comments
            return ()

        return ignore_comments(self.contents[file], file)


def _wrong_code(code: str) -> str | None:
    if code in LINT_CODES:
        return None
    if code in RULES:
        return f"{code} is not a lint rule and cannot be ignored; fix the problem"
    return f"unknown rule {format_path(code)}{guess_rule(code)}; policyctl rules lists all"


def _comment_problem(mark: Mark, code: str, message: str) -> Problem:
    return Problem(mark, code, message, severity_of(code))


FAMILIES = (
    targets.check_groups,
    targets.check_codes,
    targets.check_retries,
    targets.check_weights,
    targets.check_names,
    targets.check_placeholders,
)


class Linter:
    """The chosen lint rules, for some files and one environment after another."""

    def __init__(self, files: Files, codes: frozenset[str] = DEFAULT_CODES, *, deep: bool = False) -> None:
        """`codes` are those of the rules to run, those that need the effect engine only with `deep`."""
        self.codes = codes if deep else codes - DEEP_CODES
        self._files = files
        self._comments = Suppressions(files.contents)
        self._own: dict[
            tuple[int, bool], tuple[Policy, list[Problem]]
        ] = {}  # by the policy's identity: environments share most policies
        self._linted: dict[str, None] = {}  # in order
        self._broken: set[str] = set()

    def check(self, loaded: Loaded, environment: Environment, on_policy: Callable[[], object] = lambda: None) -> Loaded:
        """What was loaded for an environment, with the findings that no comment suppresses among its problems.

        `on_policy` is called after each policy.
        """
        errors = errors_in(loaded.problems)
        self._linted.update(dict.fromkeys(loaded.included))
        self._broken.update(problem.mark.file for problem in errors)
        whole = self._files.whole and not errors
        mixed = list(self._mixed_types(loaded)) if whole else []
        found = [*loaded.problems, *mixed, *self._policies(loaded, {problem.mark.file for problem in mixed}, on_policy)]
        found += [*self._undeclared(loaded, environment), *self._undeclared_uses(loaded, environment)] if whole else ()
        chosen = [problem for problem in found if problem.code in self.codes or problem.code not in LINT_CODES]
        return loaded._replace(problems=tuple(sorted(set(redact_linked(self._comments.without_ignored(chosen))))))

    def comment_problems(self) -> list[Problem]:
        """What is wrong with the ignore comments. Only known when every environment was checked, since each may need them."""
        judged = self.codes if self._files.whole and not self._broken else self.codes - REFERENCE_CODES - DEEP_CODES
        files = [file for file in self._linted if file not in self._broken]
        return [problem for problem in self._comments.problems(judged, files) if problem.code in self.codes]

    def _policies(self, loaded: Loaded, mixed: Collection[str], on_policy: Callable[[], object]) -> Iterator[Problem]:
        """What the rules find in each policy, and in the names of models.

        A policy that targets others does what those do, and a file of `mixed` types has models that never serve: there the
        effect engine needs to know the whole directory.
        """
        for model in loaded.model_documents:
            yield from (self._files.mark_of(model, complaint) for complaint in targets.in_name(("name",), model.name))
        if loaded.virtual_models:
            yield from self._virtual_models(loaded)
        together = []
        for policy in loaded.policies:
            alone = policy.name not in loaded.references and policy.file not in mixed
            together += [] if alone else [policy]
            yield from self._by_itself(policy, deep=alone and self._deep)
            on_policy()
        documents = {policy.name: policy.document for policy in loaded.policies} if together and self._deep else {}
        for policy in together if documents else ():
            found = targets.check_deep(policy.document, documents, self.codes, loaded.declared)
            yield from (self._files.mark_of(policy, complaint) for complaint in found)

    def _virtual_models(self, loaded: Loaded) -> Iterator[Problem]:
        for model in loaded.virtual_models:
            yield from (self._files.mark_of(model, complaint) for complaint in check_model(model.document))

    @property
    def _deep(self) -> bool:
        return not self.codes.isdisjoint(DEEP_CODES)

    def _by_itself(self, policy: Policy, *, deep: bool) -> list[Problem]:
        known = self._own.get((id(policy), deep))
        if known is None:
            found = list(findings(policy.document, self.codes, deep=deep))
            problems = to_problems(self._files.source(policy.file), policy.index, found) if found else []
            policy.keep_text()
            self._own[id(policy), deep] = known = policy, problems
        return known[1]

    def _undeclared(self, loaded: Loaded, environment: Environment) -> Iterator[Problem]:
        """Targets that no file declares; only where that is certain to be all there is."""
        names, models = loaded.names, frozenset(map(canonical_model, loaded.models))
        for policy in loaded.policies if models or loaded.references else ():
            if models or policy.name in loaded.references:
                found = check_references(policy.document, names, models, environment.speaks_for)
                yield from (self._files.mark_of(policy, complaint) for complaint in found)

    def _undeclared_uses(self, loaded: Loaded, environment: Environment) -> Iterator[Problem]:
        """Names that files of other kinds use and no file declares."""
        names, models = loaded.names, frozenset(map(virtual_model, loaded.models)) if loaded.consumers else frozenset()
        managed = environment.settings.models
        for document in loaded.consumers:
            found = check_uses(document.consumer.uses, names, models, environment.speaks_for, managed=managed)
            yield from (self._files.mark_of(document, complaint) for complaint in found)

    def _mixed_types(self, loaded: Loaded) -> Iterator[Problem]:
        """Targets of a policy whose models are declared to be of different types, whether or not that rule is chosen."""
        if len(set(loaded.declared.types.values())) < 2:
            return

        documents = {policy.name: policy.document for policy in loaded.policies}
        for policy in loaded.policies:
            found = check_types(policy.document, documents, loaded.declared)
            yield from (self._files.mark_of(policy, complaint) for complaint in found)


def findings(document: Document, codes: Collection[str], *, deep: bool = False) -> Iterator[Finding]:
    """What the rules with these codes find in one policy by itself; `deep` asks the effect engine too."""
    yield from lint(document, codes)
    if deep:
        yield from targets.check_deep(document, {}, codes)


def lint(document: Document, codes: Collection[str] = DEFAULT_CODES) -> Iterator[Finding]:
    """Every finding of the rules with these codes that look at one policy document, with paths into it."""
    if "P443" in codes:
        yield from targets.in_name(("name",), document["name"])
    for place in groups(document):
        for check in FAMILIES:
            for complaint in check(place):
                if complaint.code in codes:
                    yield complaint


def file_warnings(source: Source, contents: FileResult) -> Iterator[Problem]:
    """What the usual rules find in the policies and virtual models of one file."""
    for policy in contents.policies:
        yield from to_problems(source, policy.index, list(findings(policy.document, DEFAULT_CODES)))
    for model in contents.virtual_models:
        yield from to_problems(source, model.index, list(check_model(model.document)))


def variable_warnings(config: Config) -> list[Problem]:
    """A warning for each variable that holds a placeholder of another tool."""
    found = [
        complaint
        for name, environment in config.environments.items()
        for complaint in in_variables(("environments", name, "vars"), environment.vars)
    ]
    return _placed(config, found, config.lint.codes())


def idle_include(
    config: Config, environment: Environment, files: Files, unread: Iterable[str], codes: Collection[str]
) -> list[Problem]:
    """A warning at each glob of `include` that matches no file, nor one of the `unread`: those that could not be read.

    Only for whole directories, since a part of one proves nothing.
    """
    if not files.whole or environment.include is None or files.root is None:
        return []
    names = [files.relative(file) for file in (*files.names, *unread)]
    idle = [(n, glob) for n, glob in enumerate(environment.include) if not any(fnmatchcase(name, glob) for name in names)]
    if not idle:
        return []
    path = _path(config, environment, "include")
    found = []
    for position, glob in idle:
        better = _better_glob(glob, names, files.root.name)
        guess = f" (did you mean {better}?)" if better else " (a glob is matched against the whole path from the directory)"
        found.append(finding((*path, position), "P473", f"{format_path(glob)} matches no file of the directory{guess}"))
    return redact_linked(_placed(config, found, codes))


def _better_glob(glob: str, names: Collection[str], directory: str) -> str | None:
    """Another spelling of a glob that matches some of the names: as other tools would read it."""
    return next((better for better in _spellings(glob, directory) if any(fnmatchcase(name, better) for name in names)), None)


def _spellings(glob: str, directory: str) -> Iterator[str]:
    for plain in (glob, glob.removeprefix("/"), glob.removeprefix("./"), glob.removeprefix(f"{directory}/")):
        yield plain
        yield plain.rstrip("/") + "/*"
        yield plain.replace("**/", "").replace("**", "*")
        yield re.sub(r"\{[^{}]*\}", "*", plain)


NamedSetting = tuple[FieldPath, str, str, Callable[[str], bool]]  # its path, its setting, its text, which names it matches


def idle_in_files(config: Config, named: Iterable[tuple[Environment, Collection[str]]]) -> list[Problem]:
    """The entries that match no policy of the files in any of their environments; `named` has each one's policy names."""
    seen: dict[FieldPath, Finding | None] = {}
    for environment, names in named:
        for path, setting, text, means in _entries(config, environment):
            idle = not any(map(means, names)) and seen.get(path, True)
            if not idle:
                seen[path] = None
                continue
            code = "P462" if setting == "allow_remove" else "P461"
            guess = closest_name(text, names) or " (correct it; if only a live policy has the name, plan can see that)"
            seen[path] = finding(path, code, f"{setting} has {text}, which matches no policy of the files{guess}")
    return _placed(config, (complaint for complaint in seen.values() if complaint is not None))


def idle_anywhere(config: Config, environment: Environment, files: Collection[str], live: Collection[str]) -> list[Problem]:
    """The entries of one environment that match no policy; those of `allow_remove` must match a live one."""
    found = []
    for path, setting, text, means in _entries(config, environment):
        if setting == "allow_remove" and not any(map(means, live)):
            guess = closest_name(text, live) or " (if the removal is done, remove the entry)"
            found.append(finding(path, "P462", f"{setting} has {text}, and no live policy has that name{guess}"))
        elif setting != "allow_remove" and not any(map(means, (*files, *live))):
            guess = closest_name(text, {*files, *live}) or " (correct it, or remove it)"
            message = f"{setting} has {text}, which matches no policy, neither in the files nor on the remote{guess}"
            found.append(finding(path, "P461", message))
    return _placed(config, found)


def _entries(config: Config, environment: Environment) -> Iterator[NamedSetting]:
    settings = environment.settings
    for setting in ("scope", "protect", "allow_key_loss"):
        for place, glob in enumerate(getattr(settings, setting) or ()):
            yield (*_path(config, environment, setting), place), setting, glob, _matching(glob)
    for place, name in enumerate(settings.allow_remove):
        yield (*_path(config, environment, "allow_remove"), place), "allow_remove", name, canonical(name).__eq__
    for place, exception in enumerate(settings.guard_exceptions):
        path = (*_path(config, environment, "guard_exceptions"), place, "policy")
        yield path, "guard_exceptions", exception.policy, exception.covers


def _matching(glob: str) -> Callable[[str], bool]:
    return lambda name: matches(name, (glob,))


def _path(config: Config, environment: Environment, setting: str) -> FieldPath:
    """The path of a setting of an environment: its own, or the shared one."""
    own = dotted("environments", environment.name, setting) in config.written
    return ("environments", environment.name, setting) if own else (setting,)


def _placed(config: Config, found: Iterable[Finding], codes: Collection[str] | None = None) -> list[Problem]:
    """The findings of the chosen rules as problems in policyctl.yaml."""
    codes = config.lint.codes(infos=True) if codes is None else codes
    chosen = [complaint for complaint in found if complaint.code in codes]
    if config.source is None or not chosen:
        return []
    from policyctl.load.yaml import to_problems  # imports PyYAML, which a valid file does not need

    return to_problems(config.source, 0, chosen)
