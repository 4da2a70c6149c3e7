"""What an environment allows: the safety settings of policyctl.yaml, resolved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from policyctl.policy.names import canonical_name, matches

if TYPE_CHECKING:
    from policyctl.effect.gateway import Answer

Part = Literal["provider", "model"]  # what may go down, or be new
Guard = Literal[
    "max_traffic_shift",
    "max_calls",
    "max_failover_seconds",
    "survive",
    "min_served",
    "deny_new",
    "allow_providers",
    "deny_providers",
]
PARTIAL = 0.1  # of the calls of a model or a provider fail in a partial failure, where nothing else is asked for
GUARDS: tuple[Guard, ...] = get_args(Guard)


class Limits(NamedTuple):
    """How much one plan may change: removes by count, updates and removes by percent of what is live."""

    max_removes: int = 5
    max_change_percent: float = 30.0


class Survive(NamedTuple):
    """Every request must be served while `any` one provider, or any one model, is down with one of these answers."""

    any: Part
    down_with: tuple[Answer, ...]


class MinServed(NamedTuple):
    """The part of the requests that must be served while any one provider or model (`of`) fails a share of its calls.

    `share` and `at_least` are from 0 to 1; `answers` are what these calls fail with, each looked at by itself.
    """

    share: float
    of: Part
    answers: tuple[Answer, ...]
    at_least: float


class Guards(NamedTuple):
    """What a changed policy may do to traffic; None means no limit.

    `max_traffic_shift` is the percentage of the requests that another model may serve after the change. `max_calls` and
    `max_failover_seconds` (of back-off) hold for the worst case of one request. `deny_new` keeps out providers, or models,
    that the live policy could not reach. The lists of providers are globs over those that requests may reach.
    """

    max_traffic_shift: float | None = None
    max_calls: int | None = None
    max_failover_seconds: float | None = None
    survive: Survive | None = None
    min_served: MinServed | None = None
    deny_new: Part | None = None
    allow_providers: tuple[str, ...] | None = None
    deny_providers: tuple[str, ...] | None = None

    @property
    def active(self) -> tuple[Guard, ...]:
        """The guards that are set."""
        return tuple(guard for guard in GUARDS if getattr(self, guard) is not None)


class GuardException(NamedTuple):
    """Policies exempt from a guard, by name or glob, with the reason or the command-line option that exempted them."""

    guard: Guard
    policy: str
    reason: str

    def covers(self, name: str) -> bool:
        """Whether the exception covers the policy of that canonical name."""
        return canonical_name(self.policy) == name or matches(name, (self.policy,))


class Override(NamedTuple):
    """One safety setting overridden for one run: the option and value as on the command line, the reason, and the author."""

    option: str
    value: str
    reason: str = ""
    by: str = ""

    @property
    def text(self) -> str:
        """`--max-removes 12`: the option and its value, if it takes one, without reason and author."""
        return f"{self.option} {self.value}" if self.value else self.option

    @property
    def plain(self) -> dict[str, str]:
        """The override as a plain value, without what is not known of reason and author."""
        about = {"reason": self.reason, "by": self.by}
        return {"option": self.option, "value": self.value, **{key: text for key, text in about.items() if text}}


class Settings(NamedTuple):
    """The safety settings of one environment, and how effects are worked out.

    `scope` None means that none is written: everything on the embedded remote, only what files name elsewhere. `partial` is
    the share of calls that fail in a partial failure; it decides nothing that apply does. `allow_key_loss` are globs of the
    models that may be updated though the remote may hide a key of theirs.
    """

    scope: tuple[str, ...] | None = None
    prune: bool = True
    protect: tuple[str, ...] = ()
    allow_remove: tuple[str, ...] = ()
    allow_key_loss: tuple[str, ...] = ()
    limits: Limits = Limits()
    guards: Guards = Guards()
    guard_exceptions: tuple[GuardException, ...] = ()
    partial: float = PARTIAL
    models: bool = False

    def in_scope(self, name: str) -> bool:
        """Whether the directory manages that policy."""
        return self.scope is None or matches(name, self.scope)

    def overridden(
        self,
        max_removes: int | None,
        max_change_percent: float | None,
        allow_remove: tuple[str, ...],
        allow_guard: tuple[GuardException, ...] = (),
        partial: float | None = None,
        allow_key_loss: tuple[str, ...] = (),
    ) -> Settings:
        """The settings with what the command line overrides by name."""
        limits = Limits(
            self.limits.max_removes if max_removes is None else max_removes,
            self.limits.max_change_percent if max_change_percent is None else max_change_percent,
        )
        return self._replace(
            limits=limits,
            allow_remove=(*self.allow_remove, *allow_remove),
            guard_exceptions=(*self.guard_exceptions, *allow_guard),
            partial=self.partial if partial is None else partial,
            allow_key_loss=(*self.allow_key_loss, *allow_key_loss),
        )
