"""The life of one cell: wait for its servers, run what is missing, guard what is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from emobench.config.identity import collect_cell_content, find_differing_keys, hash_content
from emobench.core.errors import InvalidInput, ServersGone
from emobench.core.files import describe_failure
from emobench.core.output import flatten, say
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.core.stop_signals import WARNING, Stopped, StopRequest
from emobench.core.sweep import Cell
from emobench.core.wording import pluralise
from emobench.core.worker_pool import WorkerPool
from emobench.llm.endpoint_limits import EndpointLimits
from emobench.runner.endpoint_resolver import EndpointResolver, Follower
from emobench.runner.order import sort_longest_first
from emobench.runner.pace import CellPace
from emobench.runner.rejections import RejectionRow
from emobench.serving.budget import CostLimit
from emobench.store.calls import count_usage, sum_cost
from emobench.store.episodes import EpisodeRecord, EpisodeStore, make_cell_filter
from emobench.store.summaries import SummaryWriter, read_summary_file

MAX_ATTEMPTS = 3
"""Times an episode is begun in one run of a cell before its infrastructure error stands."""
BACKOFF_S = (1.0, 5.0)
ERRORS_IN_A_ROW = 3
"""Episodes that end in an infrastructure error, one after the other, before the cell stops."""
GRACE_S = 20.0
"""Seconds for the episodes in flight after a signal; Slurm's KillWait is 30 by default."""

DONE, INCOMPLETE, NOT_USABLE, SERVERS_GONE = 0, 1, 2, 3


def run_cell(
    plan: Plan,
    run_dir: RunDir,
    number: int,
    progress: Callable[[str], None] = say,
    stop: StopRequest | None = None,
) -> int:
    """Run the episodes that cell `number` lacks. Returns 0 done, 1 incomplete, 2 where a
    probe found a model that could only fail, 3 servers gone. `stop` ends it early, and knows
    afterwards which signal did.

    Raises InvalidInput where there is no such cell, no (or another) benchmark, or the cell holds
    episodes of other content; CellBusy where another process has it; OSError where the disk
    refuses. Episodes already written stay in every case.
    """
    if not 0 <= number < len(plan.cells):
        raise InvalidInput(f"no cell {number}: {run_dir.path} has cells 0 to {len(plan.cells) - 1}")
    cell = plan.cells[number]
    content = collect_cell_content(plan.sweep, cell, plan.benchmark)
    stop = stop or StopRequest()
    with EpisodeStore(run_dir.cell(number), make_cell_filter(cell)) as store, stop.on_signals():
        if store.damaged:
            progress(
                f"cell {number}: set aside in {store.paths.set_aside}: "
                f"{pluralise(store.damaged, 'damaged line')}; what they held runs again"
            )
        _refuse_other_content(store, content)
        summary = SummaryWriter(plan, run_dir, cell, content)
        missing = [task for task in cell.tasks if task not in store.list_finished()]
        todo = f"{len(missing)} of {pluralise(len(cell.tasks), 'task')} to run"
        progress(f"cell {number}: {cell.title}: {todo}")
        reason, message = "completed", ""
        if missing:
            summary.write(store)
            try:
                limit = CostLimit(plan, run_dir, number, sum_cost(store.usage) or 0.0)
                reason, message = "max_cost", limit.check()
                if not message:
                    run = _CellRun(plan, run_dir, cell, store, summary, stop, progress, limit)
                    reason, message = run.probe() or run.converse(missing)
                    fruit = not store.list_finished().isdisjoint(missing)
                    if fruit or stop.received == WARNING or reason == "infra_errors":
                        summary.note_fruit(fruit)
            except ServersGone as error:
                reason = "interrupted" if stop.received else "endpoint_unavailable"
                message = str(error)
                fruit = not store.list_finished().isdisjoint(missing)
                if fruit or not stop.received:
                    summary.note_fruit(fruit)
            except BaseException as error:
                why = f"{type(error).__name__}: {describe_failure(error)}"
                summary.end(store, "failed", "error", why)
                raise
        if store.list_finished().issuperset(cell.tasks):
            summary.end(store, "done", "completed")
            code = DONE
        elif reason == "endpoint_unavailable":
            summary.end(store, "failed", reason, message)
            code = SERVERS_GONE
        elif reason == "probe_failed":
            summary.end(store, "failed", reason, message)
            code = NOT_USABLE
        else:
            summary.end(store, "incomplete", reason, message)
            code = INCOMPLETE
        ending = f"cell {number}: {summary.summary.status} ({summary.summary.exit_reason})"
        progress(f"{ending}: {message}" if code and message else ending)
        return code


def _refuse_other_content(store: EpisodeStore, content: Mapping[str, object]) -> None:
    """Raise InvalidInput if episodes on disk belong to another study than this one."""
    others = [
        record
        for record in (*store.records.values(), *store.foreign)
        if record.episode != hash_content(content, record.task_id)
    ]
    if not others:
        return
    before = read_summary_file(store.paths.summary)
    differing = find_differing_keys(before.content, content) if before and before.content else []
    raise InvalidInput(
        f"{store.paths.episodes} holds {pluralise(len(others), 'episode')} of other content"
        + ("; differing:\n  " + "\n  ".join(differing) if differing else "")
        + "\n  run this in another run directory"
    )


class _CellRun:
    """Converses on the missing tasks of one cell, as many at a time as its servers take."""

    def __init__(
        self,
        plan: Plan,
        run_dir: RunDir,
        cell: Cell,
        store: EpisodeStore,
        summary: SummaryWriter,
        stop: StopRequest,
        progress: Callable[[str], None],
        limit: CostLimit,
    ) -> None:
        from emobench.benchmarks.adapter import load_benchmark

        self.plan, self.run_dir, self.cell = plan, run_dir, cell
        self.benchmark = load_benchmark()
        if self.benchmark.label != plan.benchmark:
            raise InvalidInput(
                f"this sweep is a run of {plan.benchmark}, but here {self.benchmark.label} is "
                "installed; results of different benchmarks must not mix: install the same one on "
                "all nodes"
            )
        self.limit = limit
        self.store, self.summary, self.stop, self.progress = store, summary, stop, progress
        self.resolver = EndpointResolver(plan, run_dir, cell, stop.is_set)
        from emobench.runner.episode import CellContext

        self.limits = EndpointLimits(
            stop, lambda text: progress(f"cell {cell.number}: {text}"), plan.sweep.concurrency
        )
        self.pace = CellPace(plan, run_dir, cell, self.resolver, self.limits)
        self.context = CellContext.of(plan.sweep, cell, self.benchmark, self.limits)
        self.gone: ServersGone | None = None
        self.errors_in_a_row = 0
        self.last_error = ""
        self.rejections = RejectionRow()

    def probe(self) -> tuple[str, str] | None:
        """Probe before the first episode; return (exit reason, message) where the endpoints could
        only fail."""
        if self.store.list_finished():
            return None
        from emobench.probe.cells import probe_cell

        found = probe_cell(
            self.plan,
            self.run_dir,
            self.cell,
            self.resolver.latest.roles,
            self.benchmark,
            self.stop.is_set,
            self.progress,
            self.limits,
        )
        self.summary.note_probe(found.roles)
        return ("probe_failed", found.failure) if found.failure else None

    def converse(self, missing: Sequence[int]) -> tuple[str, str]:
        """Run the episodes of `missing`; (exit reason, message). Raises ServersGone."""
        from emobench.runner.completion import complete
        from emobench.runner.injection import seams

        missing = sort_longest_first(self.plan, self.run_dir, self.cell, missing)
        with seams(self.benchmark, complete) as seam:
            size = self.pace.follow(len(missing), 0)
            pool = WorkerPool(size, self._run_episode, missing, self._begins_none)
            try:
                while pool.threads and not self.stop.is_set():
                    # A bounded wait, so that a signal is acted on within a second.
                    self._keep(pool.wait_for_results(1.0))
                    pool.resize(self.pace.follow(pool.left + pool.threads, pool.threads))
                if pool.threads:
                    self._drain(pool)
                row = self.rejections
                self._write(row.void() if self.stop.is_set() else row.release())
            finally:
                pool.close()
                self.pace.leave()
                seam.keep = pool.threads > 0
        if self.gone is not None:
            raise self.gone
        if not self.stop.received:
            spent = "" if self.stop.is_set() else self.limit.check()
            return ("max_cost", spent) if spent else ("infra_errors", self.last_error)
        return "interrupted", "stopped by a signal; submit again to complete this cell"

    def _begins_none(self) -> bool:
        """Return whether no further conversation may begin."""
        return self.stop.is_set() or bool(self.limit.check())

    def _run_episode(self, task: int) -> EpisodeRecord | None:
        """Converse on one task, again after an infrastructure error; the record has the history.

        None where the cell is being stopped while the first attempt waits for a rate limit, or for
        a server that is being replaced."""
        record: EpisodeRecord | None = None
        from emobench.runner.episode import run_episode

        history = [*self.store.earlier.get(task, ())]
        before = self.store.count_attempts(task)
        for extra in range(MAX_ATTEMPTS):
            self.resolver.return_to_preferred()
            follower = Follower(self.resolver)
            endpoints, attempt = follower.endpoints, before + extra + 1
            try:
                record = run_episode(
                    self.context, endpoints.roles, task, attempt, endpoints.transports, follower
                )
            except Stopped:
                break
            self.limit.spend(sum_cost(count_usage(record.calls)) or 0.0)
            record = replace(record, history=list(history))
            if record.is_final or extra == MAX_ATTEMPTS - 1:
                break
            history = record.attempts
            if self.stop.wait(BACKOFF_S[extra]) or self._begins_none():
                break
            try:
                self.resolver.wait_for_servers(follower.endpoints)
            except ServersGone as error:
                # Where the cell is being stopped, the wait was only interrupted.
                if not self.stop.is_set():
                    self.gone = self.gone or error
                    self.stop.set()
                break
        return record

    def _keep(self, records: Sequence[EpisodeRecord | None]) -> None:
        ended = [record for record in records if record is not None]
        self._write([ready for record in ended for ready in self.rejections.sort(record)])

    def _write(self, records: Sequence[EpisodeRecord]) -> None:
        if not records:
            return
        self.store.append(*records)
        for record in records:
            self.progress(_format_line(record))
            if record.is_final:
                self.errors_in_a_row = 0
                continue
            self.last_error = record.error.message if record.error else ""
            self.errors_in_a_row += 1
            if self.errors_in_a_row >= ERRORS_IN_A_ROW:
                self.stop.set()
        self.summary.write_now_and_then(self.store)

    def _drain(self, pool: WorkerPool[int, EpisodeRecord | None]) -> None:
        """Keep what ends within the grace; the rest is abandoned and runs again next time."""
        self.progress(f"stopping: {GRACE_S:.0f} s to end for {pluralise(pool.threads, 'episode')}")
        deadline = time.monotonic() + GRACE_S
        while pool.threads and (left := deadline - time.monotonic()) > 0:
            self._keep(pool.wait_for_results(left))
        if pool.threads:
            self.progress(
                f"abandoned {pluralise(pool.threads, 'episode')}, to be run again next time"
            )


def _format_line(record: EpisodeRecord) -> str:
    reward = "  -" if record.reward is None else f"{record.reward:3.1f}"
    text = f"  task {record.task_id:>3}  reward {reward}  {record.outcome}"
    text += f"  {record.steps} steps  {record.wall_s or 0.0:.1f} s"
    return f"{text}  ({flatten(record.error.message)})" if record.error else text
