"""What an approval is about: the plan of one environment, or those of several that are approved together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from policyctl.cli.ci.merges import settings_shown
from policyctl.cli.options import Options
from policyctl.cli.selection import Overrides
from policyctl.errors import UsageError
from policyctl.load.discovery import find_config, load_config
from policyctl.load.environment import Config, EnvironmentFilter
from policyctl.load.git import repository_top
from policyctl.plan.approval import Approvable, Approval, SettingsMarks, of_several
from policyctl.plan.plan import Plan, Selection
from policyctl.plan.settings import Override

if TYPE_CHECKING:
    from policyctl.load.settings_history import SettingsHistory
    from policyctl.plan.fleet import EnvironmentResult, FleetResult


class Subject(ABC):
    """The environment, or the environments, of a step. `name` is how markers of comments name it.

    `plan` is what apply would do now, without any override. It is made once, when it is first asked for: that logs in.
    """

    name: str
    logs_in: bool  # whether a remote may be sent credentials
    rules: str  # the safety settings, as a hash

    def __init__(self, options: Options, config: Config, about: str | EnvironmentFilter) -> None:
        """`about` is the environment's name, or which ones."""
        self._options, self._config, self._about = options, config, about

    def referred(self) -> Collection[str]:
        """The files that the configuration refers to, by their paths from the repository's top."""
        from policyctl.load.base_config import referred_paths  # with git behind it

        top = repository_top(self._options.dir.absolute())
        return () if top is None else referred_paths(top.resolve(), self._config)

    @abstractmethod
    def access(self) -> str:
        """How the remotes are reached now, as a hash."""

    @property
    def settings(self) -> str:
        """All settings now, as one hash: how the remotes are reached, and the safety settings."""
        return of_several(SettingsMarks(self.access(), self.rules)._asdict())

    def shown(self, since: str | None, approvals: Sequence[Approval], *, way_only: bool = False) -> bool:
        """Whether approved plans showed each change of the settings since that commit; see `settings_shown`. With None that is
        since the first configuration."""
        now = SettingsMarks(self.access(), self.rules)
        return settings_shown(self._history, self._about, now, [since], approvals, way_only=way_only)

    def why_unknown(self, since: str | None) -> str:
        """Why it is not known how the settings changed since that commit; empty if it is."""
        return self._history.why_unknown(since)

    @cached_property
    def _history(self) -> SettingsHistory:
        from policyctl.load.settings_history import SettingsHistory  # imports subprocess

        return SettingsHistory(self._options.dir, "HEAD", self._config)

    @property
    @abstractmethod
    def plan(self) -> Approvable: ...

    @abstractmethod
    def overriding(self, overrides: tuple[Override, ...]) -> Approvable:
        """The plan with what is overridden for it."""


def subject_of(options: Options, chosen: EnvironmentFilter) -> Subject:
    """What the command line chooses. Raises UsageError if it chooses what differs from one run to the next."""
    if chosen.affected is not None:
        raise UsageError("--affected means other environments in each run, so it cannot be approved; leave it out")
    config = load_config(find_config(options.dir))
    return _Several(options, config, chosen) if chosen.several else _One(options, config)


class _One(Subject):
    def __init__(self, options: Options, config: Config) -> None:
        self._environment = config.environment(options.environment)
        super().__init__(options, config, self._environment.name)
        self.name, self.rules = self._environment.name, self._environment.rules
        self.logs_in = self._environment.logs_in

    def access(self) -> str:
        from policyctl.load.base_config import access_now  # with git behind it

        return access_now(self._options.dir, self._config)(self._environment)

    @cached_property
    def plan(self) -> Plan:
        from policyctl.cli.review import review_directory
        from policyctl.cli.session import open_session

        return review_directory(open_session(self._options), Selection(), Overrides(consumers=False)).plan

    def overriding(self, overrides: tuple[Override, ...]) -> Plan:
        return self.plan._replace(overrides=overrides)


class _Several(Subject):
    def __init__(self, options: Options, config: Config, chosen: EnvironmentFilter) -> None:
        from policyctl.load.base_config import access_and_rules  # imports subprocess

        super().__init__(options, config, chosen)
        self._chosen = chosen
        self.name, names = chosen.text, chosen.choose(config.labels, config.unlabelled)
        self._access, self.rules = access_and_rules(options.dir, config, names)
        environments = (config.environments[name] for name in names if name in config.environments)
        self.logs_in = any(one.logs_in for one in environments)
        self._plans: dict[str, Plan] = {}

    def access(self) -> str:
        return self._access

    @cached_property
    def plan(self) -> FleetResult:
        """A plan that a rule refuses counts as one: an override may let it through, and apply judges that."""
        from policyctl.cli.fleet import open_fleet, run_fleet
        from policyctl.cli.session import Session

        fleet = open_fleet(self._options, self._chosen, Selection(), Overrides(consumers=False), marks=True)

        def work(session: Session) -> EnvironmentResult:
            review, name = fleet.review(session), session.environment.name
            self._plans[name] = review.plan
            return fleet.keep(review, name, session.remote)

        return run_fleet(fleet, "plan", work)

    def overriding(self, overrides: tuple[Override, ...]) -> FleetResult:
        results = tuple(
            replace(one, digest=self._plans[one.name]._replace(overrides=overrides).digest) if one.digest else one
            for one in self.plan.results
        )
        return self.plan._replace(results=results, overrides=overrides)
