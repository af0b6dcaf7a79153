"""When a server leaves by itself: nobody needs it, nobody uses it, what it works with is still in
the queue, or the run has cost enough.

Another sweep's lease counts as need; it is no reason to stay idle or to cost more."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from emobench.core.plan import Plan, list_instances
from emobench.core.poller import Poller
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Sweep
from emobench.core.wording import pluralise
from emobench.serving.budget import Budget
from emobench.serving.demand import LeaseDemand, OwnDemand
from emobench.serving.partners import Partnership, Queued

BUDGET_CHECK_S = 60.0
QUEUE_PART = 20
"""Of the idle limit this part is given to a partner that is in the queue: Slurm may be about to
start it."""
QUEUE_PATIENCE_S = 60.0
"""And at most this long."""
MAX_PARTNER_CHECK_S = 10.0


class ShutdownPolicy:
    """Answers `explain_leaving` for one server; told with `observe` whether it had requests."""

    def __init__(
        self,
        run_dir: RunDir,
        need: OwnDemand,
        leases: LeaseDemand,
        budget_check_s: float = BUDGET_CHECK_S,
        look_at_partners: Callable[[Plan], Partnership] = lambda plan: Partnership(),
    ) -> None:
        self._need, self._leases = need, leases
        every_s = min(self._queue_patience_s / 2, MAX_PARTNER_CHECK_S)
        self._partners = Poller("the queue", lambda: look_at_partners(need.plan), every_s)
        self._queued_since: float | None = None
        self.cannot_go_back = False
        """Whether the queue refused to take the server back: it stays for its idle limit."""
        self._budget = Budget(run_dir)
        self._spent = Poller(
            "accounting", lambda: self._budget.check(self._need.plan), budget_check_s
        )
        self._used = time.monotonic()
        self._was_idle = False
        self._idle_s = 0.0
        self._busy: bool | None = None
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
        self._busy = busy
        idle = busy is False
        if not (idle and self._was_idle):
            # The first idle look counts as used: a server has not been idle while it loaded.
            self._used = time.monotonic()
        self._was_idle = idle
        # As of this look: a request may have come since.
        self._idle_s = time.monotonic() - self._used

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
        return ""

    @property
    def _idle_limit_s(self) -> float:
        return self._need.plan.sweep.idle_limit_min * 60

    @property
    def _queue_patience_s(self) -> float:
        return min(self._idle_limit_s / QUEUE_PART, QUEUE_PATIENCE_S)

    @property
    def _is_idle(self) -> bool:
        """Whether it had had no request for the idle limit when it was looked at last."""
        return bool(self._idle_limit_s) and self._idle_s >= self._idle_limit_s

    def find_awaited(self) -> Queued | None:
        """Return what is in the queue and has to start before anybody can use the server, once it
        is time to give its cards back meanwhile; None while it stays."""
        stays = self._busy or self.kept_until or self.closing or self._leases.explain_staying()
        if not self._idle_limit_s or stays:
            self._queued_since = None
            return None
        look = self._partners.poll() or Partnership()
        now = time.monotonic()
        if look.loading:
            self._used, self._idle_s = now, 0.0
        if look.queued is None:
            self._queued_since = None
            return None
        if look.queued.server is None:
            # A cell that is queued again may be about to start.
            return look.queued if self._is_idle else None
        self._queued_since = self._queued_since or now
        return look.queued if now - self._queued_since >= self._queue_patience_s else None

    def explain_idleness(self, comes_back: bool = False) -> str:
        """Return that nobody has used the server for too long; empty while it stays. Whether it
        `comes_back` where a cell needs it after all, says the caller."""
        about_to_go_back = self._queued_since is not None and not self.cannot_go_back
        if not self._is_idle or self.kept_until or self.closing or about_to_go_back:
            return ""
        self.final = self.final or not comes_back
        limit = pluralise(self._need.plan.sweep.idle_limit_min, "minute")
        return f"idle for {limit} (idle_limit_min)"

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
