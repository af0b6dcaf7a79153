"""When a server leaves by itself: nobody needs it, nobody uses it, or the run has cost enough.

Another sweep's lease counts as need; it is no reason to stay idle or to cost more."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from emobench.core.plan import Plan, list_instances
from emobench.core.poller import Poller
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Sweep
from emobench.core.wording import pluralise
from emobench.serving.budget import Budget
from emobench.serving.demand import LeaseDemand, OwnDemand

BUDGET_CHECK_S = 60.0


class ShutdownPolicy:
    """Answers `explain_leaving` for one server; told with `observe` whether it had requests."""

    def __init__(
        self,
        run_dir: RunDir,
        need: OwnDemand,
        leases: LeaseDemand,
        budget_check_s: float = BUDGET_CHECK_S,
    ) -> None:
        self._need, self._leases = need, leases
        self._budget = Budget(run_dir)
        self._spent = Poller(
            "accounting", lambda: self._budget.check(self._need.plan), budget_check_s
        )
        self._used = time.monotonic()
        self._was_idle = False
        self._unneeded: datetime | None = None
        self.kept_until = ""
        """ISO 8601, UTC: how long the server stays though nothing needs it; empty: it does."""
        self.final = False
        """Whether it left for good: only a new submission brings it back."""

    @property
    def closing(self) -> bool:
        """Whether the run has used its max_gpu_hours: the server stays for its own cells' end."""
        return bool(self._budget.reached)

    @property
    def outlasts_job(self) -> bool:
        """Whether the server is needed beyond its job's end, and the run may cost more."""
        return not (self.final or self.kept_until or self.closing)

    def observe(self, busy: bool | None) -> None:
        """Note one look at the engine. What cannot be told (None) is not held against it."""
        idle = busy is False
        if not (idle and self._was_idle):
            # The first idle look counts as used: a server has not been idle while it loaded.
            self._used = time.monotonic()
        self._was_idle = idle

    def explain_leaving(self) -> str:
        """Return why the server leaves now; empty while it stays."""
        reason = self._explain_leaving()
        self.final = self.final or bool(reason)
        return reason

    def _explain_leaving(self) -> str:
        if spent := self._spent.poll():
            return spent
        unneeded = self._need.explain_leaving()
        if self._budget.reached:
            # While its arrays end, the conversations in flight still need the server.
            return ""
        if self._leases.explain_staying():
            unneeded = ""
        sweep = self._need.plan.sweep
        if unneeded:
            return "" if self._is_kept(sweep) else unneeded
        self._unneeded, self.kept_until = None, ""
        idle_s = time.monotonic() - self._used
        limit_s = sweep.idle_limit_min * 60
        if limit_s and self._was_idle and idle_s >= limit_s:
            return f"idle for {pluralise(sweep.idle_limit_min, 'minute')} (idle_limit_min)"
        return ""

    def _is_kept(self, sweep: Sweep) -> bool:
        """Return whether the server stays for work by hand."""
        now = datetime.now(UTC)
        self._unneeded = self._unneeded or now
        until = self._unneeded + timedelta(minutes=sweep.keep_servers_min)
        self.kept_until = until.isoformat(timespec="seconds") if until > now else ""
        return bool(self.kept_until)


def describe_keeping_cost(plan: Plan, minutes: float) -> str:
    """Return what servers that stay cost at most: '3 accelerators x 2 h = 6 accelerator-hours'."""
    cards = sum(model.accelerators for model in list_instances(plan.sweep).values())
    hours = minutes / 60
    if not cards:
        servers = len(list_instances(plan.sweep))
        return f"{pluralise(servers, 'server')} without an accelerator x {hours:.2g} h"
    cost = f"{cards * hours:.1f} accelerator-hours"
    return f"{pluralise(cards, 'accelerator')} x {hours:.1f} h = {cost}"
