"""One look after the other at a run directory, the queue, accounting and the servers."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from emobench.core.errors import EmobenchError
from emobench.core.files import read_stamp
from emobench.core.job_id import get_array_id
from emobench.core.plan import load_plan
from emobench.core.poller import Poller
from emobench.core.run_dir import RunDir
from emobench.llm.engine_metrics import Load, ask_load
from emobench.runs.server_state import ServerState
from emobench.runs.status import RunStatus, build_run_status
from emobench.runs.watching.episodes import EpisodeScan
from emobench.runs.watching.state import Seen
from emobench.scheduler.cost import CostTotals, sum_up
from emobench.scheduler.interface import Accounts, JobState, Phase
from emobench.scheduler.schedulers import SCHEDULERS, find_scheduler
from emobench.scheduler.usage import ask_accounts, compute_run_cost
from emobench.store.endpoints import describe_privacy
from emobench.store.jobs import JobRecord, read_jobs
from emobench.store.summaries import CellSummary, find_current_summary, read_summary_file

ACCOUNTS_EVERY_S, COST_EVERY_S = 60.0, 10.0
PATIENCE_S = 1.0
"""How long one look waits for answers; what comes later is in the next."""
FIRST_PATIENCE_S = 20.0


class Reader:
    """Reads what a look needs, and no more: what cannot have changed is not read again."""

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._plan = load_plan(run_dir)
        self._stamp = read_stamp(run_dir.plan)
        self._recorded = read_jobs(run_dir)
        self._by_hand: list[JobRecord] = []
        """Jobs that the queue had besides those on record, when it was asked last."""
        scheduler = find_scheduler(self._plan.profile)
        self.queue = Poller(scheduler.queue, self._ask_queue, scheduler.queue_check_s)
        self._accounts = Poller(
            "sacct", lambda: ask_accounts(self._plan, run_dir, self._jobs), ACCOUNTS_EVERY_S
        )
        self._loads: dict[str, tuple[str, Poller[Load]]] = {}
        self._cost: tuple[float, CostTotals] | None = None
        self._begin()

    @property
    def _jobs(self) -> list[JobRecord]:
        known = {job.handle for job in self._recorded}
        return [*self._recorded, *(job for job in self._by_hand if job.handle not in known)]

    def _ask_queue(self) -> dict[str, JobState]:
        with suppress(EmobenchError):
            found = SCHEDULERS.find_unrecorded(self._plan, self._run_dir, self._recorded)
            self._by_hand = found
        return SCHEDULERS.ask_states(self._jobs)

    def _begin(self) -> None:
        self._scan = EpisodeScan(self._plan, self._run_dir)
        self._summaries: dict[int, CellSummary] = {}
        self._read_at: dict[int, tuple[int, int]] = {}
        self._planned: dict[str, int] = dict.fromkeys(self._plan.sweep.variants, 0)
        for cell in self._plan.cells:
            self._planned[cell.variant] += len(cell.tasks)

    def look(self, budget_s: float | None, first: bool) -> tuple[Seen, dict[str, Load | str]]:
        """Return what there is now. Raises InvalidInput where the plan is gone for good."""
        patience_s = FIRST_PATIENCE_S if first else PATIENCE_S
        missing = [note] if (note := describe_privacy(self._run_dir)) else []
        self._renew(missing)
        states = self._ask_states(patience_s, missing)
        summaries = self._read_summaries()
        status = build_run_status(self._plan, self._run_dir, self._jobs, states, summaries.get)
        metrics = self._ask_metrics(status)
        now = time.time()
        done = {number: each.status == "done" for number, each in summaries.items()}
        self._scan.read(done, budget_s, now)
        seen = Seen(
            status=status,
            planned=self._planned,
            tallies=self._scan.variants,
            recent=tuple(self._scan.recent),
            behind=self._scan.behind,
            newest_error=self._scan.newest_error,
            cost=self._compute_costs(states, summaries, patience_s, missing),
            missing=tuple(missing),
        )
        return seen, metrics

    def _renew(self, missing: list[str]) -> None:
        """Follow a resubmission: cells may have been added, and jobs submitted."""
        present = read_stamp(self._run_dir.plan)
        if present is None:
            missing.append(f"the run directory: {self._run_dir.path} cannot be read")
            return
        if present != self._stamp:
            try:
                self._plan = load_plan(self._run_dir)
            except EmobenchError as error:
                missing.append(str(error).splitlines()[0])
                return
            self._stamp = present
            self._begin()
        jobs = read_jobs(self._run_dir)
        if jobs and jobs != self._recorded:
            self._recorded = jobs
            self.queue.refresh_soon()
            self._accounts.refresh_soon()

    def _ask_states(self, patience_s: float, missing: list[str]) -> dict[str, JobState]:
        states = dict(self.queue.poll(patience_s) or {})
        asked = {get_array_id(job_id) for job_id in states}
        for job in self._jobs:
            # Not asked about yet: nothing is known, which is not the same as gone.
            if job.job_id not in asked:
                states[job.job_id] = JobState("UNKNOWN")
        if self.queue.problem:
            missing.append(self.queue.problem)
        elif unknown := [each for each in states.values() if each.phase is Phase.UNKNOWN]:
            missing.append(f"the queue: {unknown[0].reason or 'squeue does not answer'}")
        return states

    def _read_summaries(self) -> dict[int, CellSummary]:
        """Return the summaries by cell; a cell that is done is not looked at again."""
        cells = self._plan.cells
        try:
            folders = [entry.name for entry in os.scandir(self._run_dir.path / "cells")]
        except OSError:
            return self._summaries
        for name in folders:
            if not name.isdigit():
                continue
            number = int(name)
            known = self._summaries.get(number)
            if known is not None and known.status == "done":
                continue
            path = self._run_dir.cell(number).summary
            present = read_stamp(path)
            if present is not None and self._read_at.get(number) != present:
                summary = read_summary_file(path)
                if summary is not None and summary.status == "done" and number < len(cells):
                    summary = find_current_summary(self._run_dir, cells[number])
                if summary is not None:
                    self._summaries[number], self._read_at[number] = summary, present
        return self._summaries

    def _ask_metrics(self, status: RunStatus) -> dict[str, Load | str]:
        """Load by server; a server that is not there is not asked."""
        asked: dict[str, Poller[Load]] = {}
        for server in status.servers:
            name, url = server.name, server.url
            if server.state is not ServerState.READY or not url:
                self._loads.pop(name, None)
                continue
            if self._loads.get(name, ("",))[0] != url:
                poller = Poller("/metrics", partial(ask_load, url), 0.0)
                self._loads[name] = (url, poller)
            asked[name] = self._loads[name][1]
        silent = {name for name, poller in asked.items() if poller.problem}
        for poller in asked.values():
            poller.poll()
        found: dict[str, Load | str] = {}
        for name, poller in asked.items():
            # All were asked at once, so they are waited for together.
            load = poller.wait(0.0 if name in silent else PATIENCE_S)
            found[name] = poller.problem or load or "/metrics has not answered yet"
        return found

    def _compute_costs(
        self,
        states: Mapping[str, JobState],
        summaries: Mapping[int, CellSummary],
        patience_s: float,
        missing: list[str],
    ) -> CostTotals | None:
        accounts = self._accounts.poll(patience_s if self._accounts.value is None else 0.0)
        if problem := self._accounts.problem or (accounts.problem if accounts else ""):
            missing.append(problem if problem.startswith("sacct") else f"sacct: {problem}")
        if self._cost is None or time.monotonic() - self._cost[0] >= COST_EVERY_S:
            cost = compute_run_cost(
                self._plan,
                self._run_dir,
                self._jobs,
                states,
                accounts or Accounts(),
                summary_of=summaries.get,
            )
            self._cost = (time.monotonic(), sum_up(cost))
        return self._cost[1]
