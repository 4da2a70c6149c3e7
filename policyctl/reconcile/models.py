"""The models that a plan may target: those of the remote, and those that the directory declares. And of those that it writes
whether they can reach their credentials.

The rules about connections are in the manual, virtual-models. Which of a tenant's two environments (draft and live) a call uses
is not known here, so a connection that is usable in neither stops a plan, and one that is missing in one of them is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from shlex import quote
from typing import TYPE_CHECKING, Any, NamedTuple

from policyctl.effect.tree import KnownPolicies
from policyctl.errors import InvalidInput, PolicyctlError, RemoteError
from policyctl.load.directory import Loaded
from policyctl.load.environment import Environment
from policyctl.plan.plan import ModelTest, Outcome, Plan
from policyctl.plan.references import only_declared, remote_spelling, unknown_targets
from policyctl.plan.safety import Review
from policyctl.policy.document import Policy
from policyctl.policy.findings import Finding, listed
from policyctl.policy.model_settings import provider_key
from policyctl.policy.names import matches, virtual_model
from policyctl.policy.virtual_model import UNNAMED, may_lose_key
from policyctl.remote.protocol import Reader, Writer

if TYPE_CHECKING:
    from policyctl.remote.tenant_lists import Connection, Connections

_SUBJECTS = ("model", "model_name")  # the keys of a report that name what was tested
_PASSED = frozenset({"passed", "pass", "success", "succeeded", "ok"})
ENVIRONMENTS = ("draft", "live")
_KEY_VALUE, _OAUTH2 = "key_value_creds", "oauth2"


class KnownModels:
    """The models that a remote lists (asked once, when needed) and those that a directory declares."""

    def __init__(self, reader: Reader, declared: Collection[str] = ()) -> None:
        self._reader = reader
        self._declared = declared

    @cached_property
    def listed(self) -> frozenset[str]:
        """The names that the remote lists; empty when it has no list."""
        return self._reader.models()

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name, as the remote spells it; empty when no model is known at all."""
        return self.listed | frozenset(map(virtual_model, self._declared))

    def noted(self, reviewed: Review) -> Review:
        """The review of a plan that writes something, with notes on targeted models that are not known on the remote."""
        if not self.names:
            return reviewed._replace(unchecked="targets not checked: the remote knows no models")
        written = {change.name: change.after for change in reviewed.plan.policies if change.after is not None}
        policies = reviewed.policies.keys() | KnownPolicies.of(reviewed.policies).unclear
        there = {change.name for change in reviewed.plan.changes if change.kind == "model"} | reviewed.live
        declared = [name for name in self._declared if virtual_model(name) not in there]
        notes = only_declared(written, self.listed, declared, policies)
        return reviewed._replace(notes=(*reviewed.notes, *notes))

    def speller(self, policies: Collection[str], *, virtual: bool = False) -> Callable[[Policy], Policy]:
        """Returns a function that spells a policy's models as they are known. `policies` are names that are not models; with
        `virtual` a name without a prefix means the virtual model of that name, if there is one."""
        return lambda policy: remote_spelling(policy, self.names, policies, virtual=virtual)


def check_models(models: KnownModels, reviewed: Review, loaded: Loaded, environment: Environment) -> Review:
    """Check that the targets of every policy that the plan writes exist, and return the review with notes.

    Raises InvalidInput with a problem for every target that will be neither a model nor a policy. If no models are known, on
    the remote or in the directory, only policies are checked, and the review notes that. A model that only the directory has
    is noted too.
    """
    # A git revision has the policies of one directory: names that the directory does not manage may exist elsewhere.
    elsewhere = (
        _unknown_everywhere if KnownPolicies.of(reviewed.policies).whole else lambda name: not environment.speaks_for(name)
    )
    known = models.names if _written(reviewed) else frozenset()
    if found := _unknown_targets(reviewed, loaded.policies, known, elsewhere):
        raise InvalidInput(loaded.mark_of(policy, complaint) for policy, complaint in found)
    return models.noted(reviewed) if _written(reviewed) else reviewed


def check_policy(models: KnownModels, reviewed: Review, policy: Policy) -> Review:
    """The same for a plan over one policy without a file. Raises PolicyctlError with a line for every unknown target."""
    known = models.names if _written(reviewed) else frozenset()
    if found := _unknown_targets(reviewed, [policy], known, _unknown_everywhere):
        raise PolicyctlError("; ".join(complaint.message for _, complaint in found))
    return models.noted(reviewed) if _written(reviewed) else reviewed


def _unknown_everywhere(_: str) -> bool:
    return False


def _written(reviewed: Review) -> set[str]:
    return {change.name for change in reviewed.plan.changes if change.after is not None}


def _unknown_targets(
    reviewed: Review, desired: Sequence[Policy], models: frozenset[str], elsewhere: Callable[[str], bool]
) -> list[tuple[Policy, Finding]]:
    """The targets that the plan would write and that do not exist; without `models` only policies are checked."""
    written = _written(reviewed)
    unclear = KnownPolicies.of(reviewed.policies_before).unclear
    there = reviewed.live.union((policy.name for policy in desired), unclear)
    return [
        (policy, complaint)
        for policy in desired
        if policy.name in written
        for complaint in unknown_targets(policy.document, models, there, elsewhere)
    ]


def check_credentials(reader: Reader, reviewed: Review, allow_key_loss: Sequence[str]) -> Review:
    """The review with a refusal for each connection that a written model cannot use, and for each update that may remove a
    key, unless its model's name matches `allow_key_loss`; and with notes on what may be missing.

    Nothing is looked up on a remote without connections, or for a plan that writes no model which names one. Where connections
    are, a row may also have a key that the remote does not show.
    """
    if reader.connections is None:
        return reviewed
    refused, allowed = _keys_at_risk(reviewed, allow_key_loss, shows_keys=reader.shows_keys)
    reviewed = reviewed._replace(refusals=(*reviewed.refusals, *refused), notes=(*reviewed.notes, *allowed))
    uses = _uses(reviewed.plan)
    if not uses:
        return reviewed
    refusals, notes = list[str](), list[str]()
    try:
        entries = reader.connections.listed()
        if entries is None:
            unchecked = f"connections are not checked: this remote has no list of them ({listed(sorted(_app_ids(uses)))})"
            return reviewed._replace(notes=(*reviewed.notes, unchecked))
        for use in uses:
            _check(use, _entries(use.app_id, reader.connections, entries), refusals.append, notes.append)
    except RemoteError as error:
        names = listed(sorted(_app_ids(uses)))
        refusals.append(f"it is not known whether models can use {names}, because connections cannot be read: {error}")
    return reviewed._replace(refusals=(*reviewed.refusals, *refusals), notes=(*reviewed.notes, *notes))


def _keys_at_risk(reviewed: Review, allowed: Sequence[str], *, shows_keys: bool) -> tuple[list[str], list[str]]:
    """Refusals of the updates that remove a model's own key if there is one, and notes of those that are `allowed`.

    Every remote that has connections may keep keys to itself, unless it promises to show them. Whether it keeps a key that it
    hides when a PUT leaves the key out cannot be found out: what is read back shows no key either way, and nothing documents
    it.
    """
    refusals, notes = list[str](), list[str]()
    for change in () if shows_keys else reviewed.plan.changes:
        live = reviewed.models_before.get(change.name)
        if change.action == "update" and change.after is not None and live is not None and may_lose_key(live, change.after):
            risk = f"{change.name}: this remote shows neither a key nor a connection of it; if it has a key of its own, this "
            if matches(change.name, allowed):
                notes.append(f"{risk}update may remove it, which is allowed")
            else:
                refusals.append(
                    f"{risk}update may remove it (make a connection that holds the key, and write its app_id in the file; or "
                    f"allow it with --allow-key-loss {quote(change.name)} if it has no key, or if this remote keeps it)"
                )
    return refusals, notes


class _Use(NamedTuple):
    """A connection, the kind of credentials that models need it to have, and the models."""

    app_id: str
    scheme: str
    models: tuple[str, ...]

    @property
    def subject(self) -> str:
        return f"connection {self.app_id} (of {listed(self.models)})"


def _uses(plan: Plan) -> list[_Use]:
    found: dict[tuple[str, str], list[str]] = {}
    for change in plan.changes:
        if change.kind == "model" and change.after is not None and isinstance(app_id := change.after.get("app_id"), str):
            scheme = _OAUTH2 if provider_key(change.name) == "openai-oauth2-client-creds" else _KEY_VALUE
            found.setdefault((app_id, scheme), []).append(change.name)
    return [_Use(app_id, scheme, tuple(names)) for (app_id, scheme), names in sorted(found.items())]


def _app_ids(uses: Iterable[_Use]) -> set[str]:
    return {use.app_id for use in uses}


def _entries(app_id: str, connections: Connections, entries: Sequence[Connection]) -> list[Connection] | None:
    """What the list has of a connection, one entry for each environment. None: it exists, and the list does not have it."""
    found = [one for one in entries if one.app_id == app_id]
    if not found and (app_id.startswith(UNNAMED) or connections.exists(app_id)):
        return None
    return found


def _check(use: _Use, entries: list[Connection] | None, refuse: Callable[[str], None], note: Callable[[str], None]) -> None:
    """Report what is wrong with one connection."""
    if entries is None:
        note(f"{use.subject} is not checked: the list of connections does not have it")
        return
    if not entries:
        refuse(f"{use.subject} does not exist (orchestrate connections add -a {quote(use.app_id)}, or correct app_id)")
        return
    configured = {one.environment: one for one in entries if one.environment is not None and one.is_configured}
    if not configured:
        remedy = f"orchestrate connections configure -a {quote(use.app_id)}"
        refuse(f"{use.subject} is configured neither for draft nor for live ({remedy})")
        return
    wrong = {name: one.security_scheme for name, one in configured.items() if one.security_scheme not in (None, use.scheme)}
    shown = " and ".join(f"{scheme} in {name}" for name, scheme in wrong.items())
    if wrong.keys() == configured.keys():
        refuse(f"{use.subject} has {shown}, and a model of this provider needs {use.scheme}")
        return
    if wrong:
        note(f"{use.subject} has {shown}, where a model of this provider cannot use it: it needs {use.scheme}")
    for why in _notes(use, configured):
        note(why)


def _notes(use: _Use, configured: Mapping[str, Connection]) -> Iterator[str]:
    for name in ENVIRONMENTS:
        entry = configured.get(name)
        if entry is None:
            yield f"{use.subject} is not configured for {name}, so models cannot use it there"
        elif entry.security_scheme is None:
            yield f"{use.subject}: its kind of credentials in {name} is not shown, so it is not checked"
        elif entry.security_scheme == use.scheme and entry.credentials_entered is False:
            remedy = f"orchestrate connections set-credentials -a {quote(use.app_id)} --env {name}"
            yield f"{use.subject} has no credentials in {name} yet ({remedy})"


def test_models(outcomes: Sequence[Outcome], writer: Writer, stopped: Callable[[], bool]) -> Iterator[ModelTest]:
    """What the platform reports of each model that was written, when it is asked to test it.

    No failure of a test raises: the model is written, whatever comes of it.
    """
    for outcome in outcomes:
        change = outcome.change
        if change.kind != "model" or change.after is None or outcome.status != "applied":
            continue
        if stopped():
            yield ModelTest(change.name, "skipped", "interrupted")
        elif change.after.get("model_type") == "embedding":
            yield ModelTest(change.name, "skipped", "the platform does not test embedding models")
        else:
            yield _test(change.name, writer)


def _test(name: str, writer: Writer) -> ModelTest:
    try:
        report = writer.test_model(name)
    except RemoteError as error:
        return ModelTest(name, "not known", f"the test itself failed: {error}")
    if report is None:
        return ModelTest(name, "skipped", "this remote does not test models")
    if (about := _subject(report)) is not None and virtual_model(about) != name:
        return ModelTest(name, "not known", f"the report is about {about}")
    status = report.get("overall_status") if isinstance(report, dict) else None
    tests = report.get("tests") if isinstance(report, dict) else None
    failed = [test for test in tests if _is_failed(test)] if isinstance(tests, list) else []
    if failed:
        return ModelTest(name, "failed", "; ".join(f"{test.get('test_name')}: {test.get('message')}" for test in failed))
    if not isinstance(status, str) or not isinstance(tests, list):
        return ModelTest(name, "not known", "the report has neither a status nor tests")
    if not tests:
        return ModelTest(name, "skipped", "no test was made")
    if status.casefold() not in _PASSED:
        return ModelTest(name, "failed", status)
    passed = sum(_status(test) in _PASSED for test in tests)
    return ModelTest(name, "passed", f"{passed} of {len(tests)}") if passed else ModelTest(name, "skipped", "no test was made")


def _subject(report: Any) -> str | None:
    """The model that a report names; None where it names none."""
    named = (report.get(key) for key in _SUBJECTS) if isinstance(report, dict) else ()
    return next((str(one) for one in named if one), None)


def _is_failed(test: Any) -> bool:
    return isinstance(test, dict) and _status(test) not in _PASSED | {"skipped"}


def _status(test: Any) -> str:
    return str(test.get("status")).casefold() if isinstance(test, dict) else ""
