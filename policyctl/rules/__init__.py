"""Every code that a problem can have: its short name, its severity, and what it means.

A code never changes its meaning and is never used again: P0xx the text of a file, P1xx the format, P2xx what holds across
files, P3xx policyctl.yaml, P4xx lint rules, P5xx those of them that the effect engine decides. Only lint rules can be
selected and ignored. The texts of lint rules are in `lint.py`, all others here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from policyctl.errors import Rule, Severity
from policyctl.policy.findings import FieldPath, Finding, did_you_mean
from policyctl.rules.lint import DEEP_RULES, LINT_RULES

# The rules that no file may break, P0xx to P3xx. None of them can be ignored: what they find cannot be applied.


def _error(code: str, name: str, text: str) -> Rule:
    return Rule(code, name, "error", text)


_TEXT = (
    _error(
        "P001",
        "unreadable-file",
        "The operating system does not let policyctl read this file or directory, or it is not a regular file (a pipe, a "
        "device). What cannot be read must not count as gone, so nothing is planned. Fix the permissions or move it away.",
    ),
    _error(
        "P002",
        "syntax",
        "The text is not YAML (or not JSON, in a .json file), so nothing in it can be trusted. The message names the most "
        "likely cause, at its place: markers of a merge that was not finished, a template without quotes, a "
        "quote or bracket that is never closed, a space that is missing after a colon, indentation that matches nothing. "
        "Fix it there, or just above.",
    ),
    _error(
        "P003",
        "duplicate-key",
        "A mapping has the same key twice. Most readers silently keep the last one, so two people can read two policies "
        "in one file. Keep one. If most of a document's keys appear twice, the line --- between two documents is missing.",
    ),
    _error(
        "P004",
        "ambiguous-value",
        "A value that YAML 1.1 and YAML 1.2 read differently (no, on, 0503, 12:30, 1_0, 1e3), a line break that only YAML 1.1 "
        "has (U+2028), or a number that cannot be used (NaN in JSON, hundreds of digits). The next tool may read the "
        "file differently. Quote it if it is text; write numbers in plain decimal digits, and true, false or null in "
        "full.",
    ),
    _error(
        "P005",
        "too-much",
        "The file is nested too deeply, has too many documents, has aliases that expand to too many values, or has too much "
        "in an environment's variables; or directories are nested too deeply. The limits keep a small file "
        "from exhausting the machine. Flatten it, split it, or write the values out.",
    ),
    _error(
        "P006",
        "not-utf8",
        "The bytes are not UTF-8, so names in it could be read in more than one way. Save the file as UTF-8.",
    ),
    _error("P007", "too-large", "The file is larger than any policy file should be. Split it into several."),
    _error(
        "P008",
        "link",
        "A symbolic link leads out of the policy directory (for policyctl.yaml and files that are named: out of the "
        "repository), to a directory, or into .git. What is applied must be visible in a review of "
        "the directory. Copy the file instead.",
    ),
    _error(
        "P010",
        "no-policy",
        "The document is neither a policy nor a virtual model nor one of the platform's other kinds. Unknown "
        "documents are refused, so that a misspelled policy is never mistaken for a removed one. Correct it, or move it "
        "elsewhere.",
    ),
    _error(
        "P011",
        "empty-file",
        "The file contains only comments or white space. That could be a policy lost in an edit, so it does not "
        "count as a removal. Write a policy, or delete the file.",
    ),
    _error(
        "P012",
        "tag",
        "YAML tags such as !!python/object or !secret mean nothing here and are never followed. Remove the tag; a secret "
        "does not belong in a policy.",
    ),
    _error(
        "P013", "key-type", "A key of a mapping must be text, and this one is a number, a date, a list or the like. Quote it."
    ),
    _error(
        "P014",
        "merge",
        "The merge key << takes a mapping, or a list of mappings, most often an alias of one. Merge one of those.",
    ),
    _error(
        "P015",
        "template",
        "A template cannot be rendered: its syntax is wrong, it asks for something that a variable does not have, or it "
        "would loop, call or grow without bound. Templates are expressions over the vars of an environment in "
        "policyctl.yaml. Correct or simplify the expression.",
    ),
    _error(
        "P016",
        "no-policies",
        "The directory does not exist, or has no policy in it (nor a virtual model, where models are managed). An empty "
        "directory would mean to remove everything, so it is refused. Name the right directory with --dir.",
    ),
    _error(
        "P017",
        "config-name",
        "The configuration is called policyctl.yaml; a policyctl.yml, Policyctl.yaml or .policyctl.yaml would be ignored "
        "together with its safety settings. Rename it.",
    ),
    _error(
        "P018",
        "unset-variable",
        "A template uses a variable that the vars of an environment do not have, so its value is not known "
        "there. Add the variable to the vars of each environment in policyctl.yaml, correct its name, or give it a default: "
        "{{ x | default(0.5) }}.",
    ),
    _error(
        "P019",
        "lfs-pointer",
        "The file is in Git LFS and only its pointer is here, so its policies are not known. Run "
        "git lfs pull, or set lfs: true for actions/checkout. A policy is small enough for Git itself: git lfs untrack.",
    ),
    _error(
        "P020",
        "file-suffix",
        "The suffix of the file's name differs from that of a policy file only in case. Some file systems would read it "
        "and others would "
        "not; policyctl reads *.yaml, *.yml and *.json only, and an ignored policy would look like a removed "
        "one. Rename the file.",
    ),
)

_FORMAT = (
    _error(
        "P101",
        "unknown-key",
        "The format has no such key here. The platform would silently drop it, so it would have no effect. Most often it "
        "is a typo; otherwise remove it. The content of a misspelled key is checked as if it were right. A target "
        "with model_name takes only a weight: to give it its own retry, make it a group with strategy and targets.",
    ),
    _error(
        "P102",
        "missing-key",
        "A required key is missing. Some are required by the format (spec_version, kind, name), others by the gateway: "
        "it refuses the whole policy, for every request, when a retry has no attempts or a strategy no mode (gateway "
        "profile portkey-1.15.2). So a retry with only on_status_codes breaks a policy that looks safer "
        "with it. Add the key.",
    ),
    _error(
        "P103",
        "out-of-range",
        "A number is outside the range of the format or the platform: a weight is greater than 0 and at most 1 (a fraction, "
        "not a percentage; to drain a target, remove it), a status code is from 100 to 599, attempts are 0 or more. Write a "
        "number in the range.",
    ),
    _error(
        "P104",
        "wrong-type",
        "A value has the wrong type: text where a number belongs, a number where a list belongs. A number in "
        'quotes is text, such as weight: "0.5". Write the value as the message describes.',
    ),
    _error(
        "P105",
        "unknown-choice",
        "Only some words are allowed here, in exactly this spelling: a strategy's mode is loadbalance, fallback or single. "
        "The gateway refuses a policy with any other. Write one of the words in the message.",
    ),
    _error(
        "P106",
        "empty-value",
        "A text or list that must not be empty is empty. A policy without targets answers no request. Fill it in, or "
        "remove what it belongs to.",
    ),
    _error("P107", "too-deep", "Groups are nested deeper than any observed gateway accepts. Flatten the policy."),
    _error(
        "P108",
        "policy-name",
        "This cannot be a policy's name: it is empty, too long, or has white space at its ends or characters that cannot "
        "be seen. Two such names can look the same. Choose a plain one.",
    ),
    _error("P109", "invalid-value", "A value does not match the format. The message describes what does."),
    _error(
        "P110",
        "secret-in-file",
        "A virtual model's file holds a secret: an api_key, a password or token, or a user in a URL. Everyone who can read the "
        "repository has it, and its history keeps it. Make a connection on the platform, write its app_id in the file, and "
        "replace the secret where it was issued.",
    ),
    _error(
        "P111",
        "only-there",
        "A key whose value means something in one place only: the id that one environment has for a connection, or the path of "
        "a file on one person's machine. Write what the message names, which means the same everywhere.",
    ),
)

_ACROSS = (
    _error(
        "P201",
        "duplicate-policy",
        "Two documents name the same policy (anygem and virtual-policy/anygem are one). Which one applies would be "
        "chance. Keep one, or rename one.",
    ),
    _error(
        "P202",
        "circle",
        "Policies target each other in a circle, so a request to any of them would never end, and none of them can be "
        "added first. Break the circle.",
    ),
    _error(
        "P203",
        "out-of-scope",
        "The policy's name is outside the scope of the environment in policyctl.yaml. Names outside the scope "
        "are never changed, so this file would never be applied. Widen scope, or rename the policy.",
    ),
    _error(
        "P204",
        "unknown-on-remote",
        "A target names a model or a policy that the remote does not have and that no file declares, so requests to "
        "it would fail. Add it there first, declare it in the directory, or correct the name. Policies are always "
        "looked for, models where the remote knows its models or the directory declares some.",
    ),
    _error(
        "P205",
        "test-without-policy",
        "Scenario tests name a policy that the directory does not have in this environment, so they test nothing. Correct "
        "the name, or delete the tests together with the policy. Plan and apply do not look at tests.",
    ),
    _error(
        "P206",
        "test-without-model",
        "A scenario test sets the answer of a model, or expects it to serve, and the policy never calls a model of that "
        "name: the test would pass in any case. A model is named in full, without virtual-model/, by its provider, by "
        "its last part, or by a glob over these. Correct the name; to state that a model is not called, use never.",
    ),
)

_CONFIG = (
    _error(
        "P301", "config-documents", "policyctl.yaml is one document; settings in a second one would be ignored. Merge them."
    ),
    _error(
        "P302", "default-environment", "default names an environment that policyctl.yaml does not have. Correct one of the two."
    ),
    _error(
        "P303",
        "secret-variable",
        "A variable of an environment is a reference to a secret (env:NAME, file:PATH). Variables end up in policies and "
        "in saved plans, where no secret may be. Remove it.",
    ),
    _error(
        "P304",
        "config-value",
        "A remote or a secret does not have a form that policyctl accepts: a remote is local, sqlite:///PATH, "
        "postgresql://HOST/DATABASE without a password, or an https:// URL without a user or password; a secret is a "
        "reference, env:NAME or file:PATH. Correct it; and if a secret was in the file, replace it too: everyone who could "
        "read the file knows it.",
    ),
    _error(
        "P305",
        "second-config",
        "A directory that is planned as one contains a second policyctl.yaml, whose settings would be ignored. Plan that "
        "directory by itself with --dir, or merge the two.",
    ),
    _error(
        "P306",
        "unknown-rule",
        "lint.select and lint.ignore list lint rules, as a code (P401) or the beginning of one (P4). This code does not "
        "belong to a lint rule: it is misspelled, or its problem can never be ignored. `policyctl rules` lists all.",
    ),
    _error(
        "P307",
        "bad-environment-name",
        "The name of an environment is also part of a file's name, that of its embedded remote. Use letters, digits, dots, "
        "dashes and underscores, and begin with a letter, a digit or an underscore.",
    ),
    _error(
        "P308",
        "login",
        "The auth of an environment does not match its remote, or its type: each way to log in needs some keys and allows no "
        "others, and auth is only sent over https:// (http:// only to this machine). Write the keys in the message.",
    ),
    _error(
        "P309",
        "fleet",
        "The description of many environments does not fit together: extends names a template that does not exist or leads "
        "back to itself, a generator names a column that its inventory does not have, or an expression is in a setting that "
        "is not rendered. No environment is planned until it is corrected.",
    ),
    _error(
        "P310",
        "inventory",
        "An inventory cannot be used as a whole: it is empty, has fewer rows than min, a row with too few or too many fields, "
        "or two rows that make one environment. A missing row must never mean that an environment is gone, so nothing is "
        "planned. Correct the row that the message names.",
    ),
    _error(
        "P311",
        "rendered-setting",
        "A setting of one environment cannot be rendered: a variable is not set, a value that goes into a path or a login has "
        "characters that could lead elsewhere, or a row decides about the server of the remote and allow_origins does not "
        "have it. The other environments are not affected. Correct the row, the template, or allow_origins.",
    ),
    _error(
        "P312",
        "required-version",
        "policyctl.yaml is for other versions of policyctl than this one, by required_version; settings could be missed. "
        "Install a version in that range.",
    ),
    _error(
        "P313",
        "shared-remote",
        "Two environments have one remote, so each would remove the policies that only the other has. Give each its own "
        "remote, or write both out under environments, each with a scope of its own.",
    ),
)

FILE_RULES = (*_TEXT, *_FORMAT, *_ACROSS, *_CONFIG)

RULES: dict[str, Rule] = {rule.code: rule for rule in (*FILE_RULES, *LINT_RULES, *DEEP_RULES)}
DEEP_CODES = frozenset(rule.code for rule in DEEP_RULES)
REFERENCE_CODES = frozenset({"P451", "P452", "P453", "P454"})  # what needs every file of the directory
LINT_CODES = frozenset(rule.code for rule in LINT_RULES) | DEEP_CODES


def finding(path: FieldPath, code: str, message: str, at: Literal["key", "value"] = "value") -> Finding:
    """A finding of a lint rule, with the severity of the rule."""
    return Finding(path, code, message, at, RULES[code].severity)


def severity_of(code: str) -> Severity:
    """How bad a problem of that code is."""
    return RULES[code].severity


def with_prefix(prefix: str, codes: Iterable[str] = LINT_CODES) -> frozenset[str]:
    """The codes that begin with a code or a prefix (`P4`); without `codes`, lint rules only."""
    return frozenset(code for code in codes if prefix and code.startswith(prefix))


def guess_rule(code: str, codes: Iterable[str] = LINT_CODES) -> str:
    """` (did you mean P405?)` for a near miss (`P4O5`), else an empty string."""
    return did_you_mean(code.upper().replace("O", "0"), sorted(codes)) if len(code) > 3 else ""


class Chosen(NamedTuple):
    """Which lint rules are selected: codes or beginnings of codes (`P4`), as `lint` of policyctl.yaml has them.

    `select` None means that none is written: every rule, but rules of severity info only on request.
    """

    select: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()

    def codes(self, *, infos: bool = False) -> frozenset[str]:
        """The codes of the rules to run. `infos` adds those of severity info where nothing is selected."""
        ignored = _all_with(self.ignore)
        if self.select is not None:
            return _all_with(self.select) - ignored
        return frozenset(code for code in LINT_CODES if infos or severity_of(code) != "info") - ignored


def _all_with(prefixes: Iterable[str]) -> frozenset[str]:
    return frozenset().union(*map(with_prefix, prefixes))


DEFAULT_CODES = Chosen().codes()
