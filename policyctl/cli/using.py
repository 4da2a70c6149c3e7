"""effect --uses: who uses a model, a provider or a policy."""

from __future__ import annotations

from collections import defaultdict

from policyctl.cli.console import Console
from policyctl.cli.subjects import Subjects
from policyctl.effect.matching import names_of
from policyctl.effect.uses import Names, Use, Uses, names_in
from policyctl.errors import UsageError
from policyctl.model.complaints import did_you_mean
from policyctl.model.names import spellings
from policyctl.report.uses import Users, users_json, users_markdown, users_text


def show_uses(subjects: Subjects, pattern: str, form: str, console: Console) -> int:
    """Print who uses what the pattern means, and return the exit code. Raises UsageError where it means nothing at all."""
    documents = [*subjects.known.values(), *(policy.document for policy in subjects.policies)]
    everything = names_in(documents, subjects.known.keys(), subjects.models)
    wanted = everything.fitting(pattern)
    if wanted == Names((), ()):
        raise UsageError(f"no model, provider or policy here matches {pattern}{_guess(pattern, everything)}")
    uses, found = Uses(wanted, subjects.known, subjects.declared), list[Use]()
    beyond, untold = defaultdict[str, list[str]](list), dict[str, str]()
    with console.progress.of("Working out", "policy", len(subjects.policies)) as step:
        for policy in subjects.policies:
            own = list(uses.of(policy.name, policy.document))
            found += own
            if not own and (why := uses.why_not_known(policy.document)):
                untold[policy.name] = why
            for name in uses.beyond(policy.document):
                beyond[name].append(policy.name)
            step()
    files = {policy.name: policy.file for policy in subjects.policies}
    users = Users(pattern, wanted, tuple(found), files, dict(sorted(beyond.items())), untold)
    if form == "json":
        console.result(users_json(users))
    else:
        console.result(users_markdown(users) if form == "markdown" else users_text(users, console.out_style))
    return 0


def _guess(pattern: str, everything: Names) -> str:
    known = {name for model in everything.models for name in names_of(model)}
    known.update(spelling for policy in everything.policies for spelling in spellings(policy))
    return did_you_mean(pattern, sorted(known))
