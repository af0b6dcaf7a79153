"""The life of one cell: wait for its servers, run what is missing, guard what is there."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from emobench.calls import Role, Target
from emobench.config.models import RoleModel, sampling_of
from emobench.config.sweep import Cell
from emobench.errors import InvalidInput, ServersGone
from emobench.files import write_json
from emobench.plan import USER_SERVER, Plan, assistant_server
from emobench.results.store import INFRA_ERROR, EpisodeStore
from emobench.rundir import RunDir

MAX_ATTEMPTS = 3
"""Times an episode is begun in one run of a cell before its infrastructure error stands."""
BACKOFF_S = (1.0, 5.0)
ERRORS_IN_A_ROW = 3
"""Episodes that end in an infrastructure error, one after the other, before the cell stops."""
GRACE_S = 20.0
"""Seconds for the episodes in flight after a signal; Slurm's KillWait is 30 by default."""

DONE, INCOMPLETE, SERVERS_GONE = 0, 1, 3


class _Summary:
    """`variant_summary.json`, rewritten as the cell goes on."""

    def __init__(self, plan: Plan, run_dir: RunDir, cell: Cell) -> None:
        self.path = run_dir.cell(cell.number).summary
        self.cell = cell
        self.fields: dict[str, Any] = {
            "schema": 1,
            "cell": cell.number,
            "title": cell.title,
            "variant": cell.variant,
            "status": "running",
            "exit_reason": "running",
            "message": "",
            "expected": len(cell.tasks),
            "finished": 0,
            "outcomes": {},
            "mean_reward": None,
            "variant_sha256": plan.sweep.variants[cell.variant].sha256,
            "started": _now(),
            "ended": None,
            "job_id": job_id(),
            "host": socket.gethostname(),
        }

    def write(self, store: EpisodeStore, **fields: Any) -> None:
        wanted = set(self.cell.tasks)
        records = [record for task, record in store.records.items() if task in wanted]
        rewards = [record["reward"] for record in records if record["outcome"] != INFRA_ERROR]
        self.fields.update(
            finished=len(rewards),
            outcomes=dict(Counter(record["outcome"] for record in records)),
            mean_reward=sum(rewards) / len(rewards) if rewards else None,
            **fields,
        )
        write_json(self.path, self.fields)


def job_id() -> str:
    """This job's id as a person finds it in squeue or in the local job list."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    return (
        os.environ.get("SLURM_JOB_ID")
        or os.environ.get("SUBMITIT_LOCAL_JOB_ID")
        or str(os.getpid())
    )


def run_cell(
    plan: Plan, run_dir: RunDir, number: int, progress: Callable[[str], None] = print
) -> int:
    """Run the episodes that cell `number` lacks. Returns 0 done, 1 incomplete, 3 servers gone.

    Raises InvalidInput where there is no such cell or no benchmark, CellBusy where another
    process has it, OSError where the disk refuses; episodes already written stay.
    """
    if not 0 <= number < len(plan.cells):
        raise InvalidInput(f"no cell {number}: {run_dir.path} has cells 0 to {len(plan.cells) - 1}")
    cell = plan.cells[number]
    with EpisodeStore(run_dir.cell(number)) as store:
        summary = _Summary(plan, run_dir, cell)
        missing = [task for task in cell.tasks if task not in store.finished()]
        progress(f"cell {number}: {cell.title}: {len(missing)} of {len(cell.tasks)} tasks to run")
        if not missing:
            summary.write(store, status="done", exit_reason="completed", ended=_now())
            _write_stock_results(store, cell)
            return DONE
        summary.write(store)
        try:
            targets = _targets(plan, run_dir, cell)
        except ServersGone as error:
            progress(f"cell {number}: {error}")
            summary.write(
                store,
                status="failed",
                exit_reason="endpoint_unavailable",
                message=str(error),
                ended=_now(),
            )
            return SERVERS_GONE
        except BaseException as error:
            message = f"{type(error).__name__}: {error}"
            summary.write(
                store, status="failed", exit_reason="error", message=message, ended=_now()
            )
            raise
        reason, message = _converse(plan, cell, store, targets, missing, summary, progress)
        done = store.finished().issuperset(cell.tasks)
        summary.write(
            store,
            status="done" if done else "incomplete",
            exit_reason="completed" if done else reason,
            message="" if done else message,
            ended=_now(),
        )
        _write_stock_results(store, cell)
        progress(f"cell {number}: {summary.fields['status']} ({summary.fields['exit_reason']})")
        return DONE if done else INCOMPLETE


def _converse(
    plan: Plan,
    cell: Cell,
    store: EpisodeStore,
    targets: dict[Role, Target],
    missing: list[int],
    summary: _Summary,
    progress: Callable[[str], None],
) -> tuple[str, str]:
    """Run the episodes of `missing`, `concurrency` at a time; (exit reason, message) if not all."""
    from emobench.benchmarks.adapter import load_benchmark
    from emobench.calls import complete
    from emobench.episode import CellContext, run_episode
    from emobench.variants.inject import seams

    benchmark = load_benchmark()
    if benchmark.label != plan.benchmark:
        raise InvalidInput(
            f"this sweep is a run of {plan.benchmark}, but here {benchmark.label} is installed; "
            "results of different benchmarks must not mix: install the same one on all nodes"
        )
    context = CellContext.of(plan.sweep, cell, benchmark)
    queue = iter(missing)
    errors_in_a_row, message = 0, ""
    stop = threading.Event()

    def attempt(task: int) -> dict[str, Any]:
        before = store.attempts.get(task, 0)
        for extra in range(MAX_ATTEMPTS):
            record = run_episode(context, targets, task, before + extra + 1)
            if record["outcome"] != INFRA_ERROR or stop.is_set():
                break
            if extra < len(BACKOFF_S):
                stop.wait(BACKOFF_S[extra])
        return record

    pool = ThreadPoolExecutor(max_workers=plan.sweep.concurrency, thread_name_prefix="episode")
    with seams(benchmark, complete), _stop_on_signals(stop):
        running: set[Future[dict[str, Any]]] = set()
        while True:
            while not stop.is_set() and len(running) < plan.sweep.concurrency:
                task = next(queue, None)
                if task is None:
                    break
                running.add(pool.submit(attempt, task))
            if not running:
                break
            # A bounded wait, so that a signal is acted on within a second.
            finished, running = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in finished:
                record = future.result()
                store.append(record)
                progress(_line(record))
                failed = record["outcome"] == INFRA_ERROR
                errors_in_a_row = errors_in_a_row + 1 if failed else 0
                message = record["error"]["message"] if failed else message
            if finished:
                summary.write(store)
            if errors_in_a_row >= ERRORS_IN_A_ROW:
                stop.set()
            if stop.is_set() and running:
                _drain(running, store, progress)
                break
    pool.shutdown(wait=False, cancel_futures=True)
    if errors_in_a_row >= ERRORS_IN_A_ROW or (message and not stop.is_set()):
        return "infra_errors", message
    return "interrupted", "stopped by a signal; submit again to complete this cell"


def _drain(
    running: set[Future[dict[str, Any]]], store: EpisodeStore, progress: Callable[[str], None]
) -> None:
    """Keep what ends within the grace; the rest is abandoned and runs again next time."""
    progress(f"stopping: {len(running)} episodes in flight have {GRACE_S:.0f} s to end")
    finished, abandoned = wait(running, timeout=GRACE_S)
    for future in finished:
        record = future.result()
        store.append(record)
        progress(_line(record))
    if abandoned:
        progress(f"abandoned {len(abandoned)} episodes; they run again next time")


@contextmanager
def _stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM, SIGINT and SIGUSR1 (Slurm's early warning) end the cell in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kinds = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {kind: signal.signal(kind, lambda *_: stop.set()) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _targets(plan: Plan, run_dir: RunDir, cell: Cell) -> dict[Role, Target]:
    return {
        "user": _target(plan, run_dir, USER_SERVER, plan.sweep.user),
        "assistant": _target(
            plan, run_dir, assistant_server(cell.assistant), plan.sweep.assistants[cell.assistant]
        ),
    }


def _target(plan: Plan, run_dir: RunDir, server: str, model: RoleModel) -> Target:
    if model.engine == "openai":
        key = os.environ.get(model.api_key_env)
        if key is None and model.base_url is None:
            raise InvalidInput(
                f"the variable {model.api_key_env} is not set: {server} needs it to reach "
                f"{model.provider}; export it before running"
            )
        return Target(
            model=model.model,
            url=model.base_url,
            api_key=key or "none",  # clients refuse to start without any
            provider=model.provider,
            sampling=sampling_of(model),
        )
    from emobench.serving.endpoints import api_key, wait_for_endpoint

    deadline_s = plan.profile.server_deadline_min * 60
    endpoint = wait_for_endpoint(run_dir, server, deadline_s=deadline_s)
    return Target(
        model=endpoint.model,
        url=endpoint.url,
        api_key=api_key(run_dir),
        incarnation=endpoint.incarnation,
        sampling=sampling_of(model),
    )


def _write_stock_results(store: EpisodeStore, cell: Cell) -> None:
    """tau-bench's own format, so that its tools read it; what is missing is left out."""
    keys = ("task_id", "reward", "info", "traj", "trial")
    write_json(
        store.paths.results,
        [
            {key: store.records[task][key] for key in keys}
            for task in cell.tasks
            if task in store.finished()
        ],
    )


def _line(record: dict[str, Any]) -> str:
    reward = "  -" if record["reward"] is None else f"{record['reward']:3.1f}"
    text = f"  task {record['task_id']:>3}  reward {reward}  {record['outcome']}"
    text += f"  {record['steps']} steps  {record['wall_s']:.1f} s"
    return f"{text}  ({record['error']['message']})" if record["error"] else text


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
