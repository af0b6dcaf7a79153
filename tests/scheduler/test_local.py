"""The local runner: real processes, a throttle over all blocks, and an end that is complete."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from emobench.core.cluster import ClusterProfile
from emobench.core.plan import Plan, load_plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.scheduler.local import LocalScheduler, find_process_state, find_processes
from emobench.scheduler.schedulers import Schedulers
from emobench.store.jobs import JobRecord, LocalProcess, read_jobs
from tests.support.plans import make_plan, scripted
from tests.support.processes import until

LOCAL = LocalScheduler()
RUN = """#!/bin/bash
echo "$SLURM_ARRAY_JOB_ID $SLURM_ARRAY_TASK_ID"
echo start >>{events}
sleep {seconds}
echo end >>{events}
"""


def process_of(job: JobRecord) -> LocalProcess:
    assert job.process is not None
    return job.process


class Run:
    """A run directory whose scripts are small stand-ins."""

    def __init__(self, folder: Path, throttle: int = 2, seconds: float = 0.15) -> None:
        self.folder, self.run_dir = folder, RunDir(folder / "run")
        self.events = folder / "events"
        for path in (self.run_dir.scripts, self.run_dir.endpoints, folder / "logs"):
            path.mkdir(parents=True)
        self.plan: Plan = make_plan(
            ClusterProfile(name="local", scheduler="local", throttle=throttle),
            folder / "logs",
            scripted(),
            {"a": scripted(), "b": scripted()},
        )
        save_plan(self.run_dir, self.plan)
        for name in ("a", "b"):
            text = RUN.format(events=self.events, seconds=seconds)
            (self.run_dir.scripts / f"tau_array_{name}.sbatch").write_text(text)
        server = f"#!/bin/bash\necho serving\necho up >>{folder}/up\nexec sleep 600\n"
        (self.run_dir.scripts / "user_vllm.sbatch").write_text(server)

    def submit(self, cells: dict[str, list[int]], servers: tuple[str, ...] = ()) -> list[JobRecord]:
        return LOCAL.submit(self.plan, self.run_dir, cells, servers)

    def lines(self, kind: str) -> int:
        return self.events.read_text().split().count(kind) if self.events.exists() else 0


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    yield run
    LOCAL.cancel(read_jobs(run.run_dir), grace_s=0)


def test_every_missing_cell_runs_under_a_throttle_over_all_blocks(run: Run) -> None:
    jobs = run.submit({"a": [0, 1, 3], "b": [4, 7]})
    assert [(job.name, job.cells) for job in jobs] == [("a", (0, 1, 3)), ("b", (4, 7))]
    assert jobs[0].process == jobs[1].process
    until(lambda: not LOCAL.find_live(jobs), "the cells to end")
    running = most = 0
    for event in run.events.read_text().split():
        running += 1 if event == "start" else -1
        most = max(most, running)
    assert most == 2
    pid = process_of(jobs[0]).pid
    logs = {path.name: path.read_text() for path in (run.folder / "logs").iterdir()}
    assert logs == {
        **{f"run_{pid}.1_{index}.log": f"{pid}.1 {index}\n" for index in (0, 1, 3)},
        **{f"run_{pid}.2_{index}.log": f"{pid}.2 {index}\n" for index in (0, 3)},
    }


def test_the_cells_of_all_assistants_take_turns_by_whole_trials(tmp_path: Path) -> None:
    """Their servers are all there from the start: none of them waits for another's cells."""
    run, order = Run(tmp_path, throttle=1), tmp_path / "order"
    for name in ("a", "b"):
        text = f'#!/bin/bash\necho "{name} $SLURM_ARRAY_TASK_ID" >>{order}\n'
        (run.run_dir.scripts / f"tau_array_{name}.sbatch").write_text(text)
    jobs = run.submit({"a": [0, 1, 2, 3], "b": [4, 5, 6, 7]})
    until(lambda: not LOCAL.find_live(jobs), "the cells to end")
    begun = order.read_text().splitlines()
    assert begun == ["a 0", "a 1", "b 0", "b 1", "a 2", "a 3", "b 2", "b 3"]


def test_jobs_are_recorded_and_found_again_but_not_by_a_recycled_pid(run: Run) -> None:
    seen: list[JobRecord] = []
    jobs = LOCAL.submit(run.plan, run.run_dir, {"a": [0]}, ["user"], seen.append)
    assert read_jobs(run.run_dir) == jobs == seen
    assert [state.state for state in LOCAL.ask_states(jobs).values()] == ["RUNNING"] * 2
    process = process_of(jobs[0])
    # One that was gone before its start could be read has none.
    for ticks in ((process.start_ticks or 0) - 1, None):
        recycled = replace(process, start_ticks=ticks, token="another")
        assert find_process_state(recycled).state == "GONE"
        assert find_processes(recycled) == []
        LOCAL.cancel([replace(jobs[0], process=recycled)], grace_s=0)
    assert find_process_state(process).state == "RUNNING"
    assert find_process_state(replace(process, host="elsewhere")).state == "UNKNOWN"


def undated(jobs: list[JobRecord]) -> list[JobRecord]:
    return [replace(job, submitted="") for job in jobs]


def test_jobs_that_nobody_recorded_are_found(run: Run, tmp_path: Path) -> None:
    jobs = run.submit({"a": [0, 1, 3], "b": [4]}, ("user",))
    until(lambda: run.lines("start"), "a cell to run")
    (recorded := run.run_dir.jobs).rename(recorded.with_name("forgotten"))
    found = LOCAL.find_jobs(run.plan, run.run_dir)
    assert undated(found) == undated(jobs)
    assert LOCAL.find_jobs(run.plan, RunDir(tmp_path / "another")) == []
    ours = Schedulers(LOCAL)
    assert undated(ours.find_unrecorded(run.plan, run.run_dir, [])) == undated(jobs)
    assert ours.find_unrecorded(run.plan, run.run_dir, jobs) == []
    recorded.with_name("forgotten").rename(recorded)
    LOCAL.cancel(jobs, grace_s=5)
    assert LOCAL.find_jobs(run.plan, run.run_dir) == []


def test_a_throttle_that_is_changed_holds_for_cells_that_wait(tmp_path: Path) -> None:
    run = Run(tmp_path, throttle=1, seconds=600)
    jobs = run.submit({"a": [0, 1, 2]})
    until(lambda: run.lines("start") == 1, "one cell to run")
    sweep = run.plan.sweep.model_copy(update={"throttle": 3})
    save_plan(run.run_dir, run.plan.model_copy(update={"sweep": sweep}))
    until(lambda: run.lines("start") == 3, "all cells to run")
    LOCAL.cancel(jobs, grace_s=0)


def test_a_job_imports_nothing_from_the_present_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "submitit.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    jobs = run.submit({"a": [0]})
    until(lambda: not LOCAL.find_live(jobs), "the cell to end")
    assert run.lines("end") == 1


def test_cancel_leaves_no_process_even_of_those_that_ignore_it(tmp_path: Path) -> None:
    run = Run(tmp_path, seconds=600)
    script = run.run_dir.scripts / "user_vllm.sbatch"
    # In a group of its own and deaf, as an engine that hangs.
    script.write_text(f"trap '' TERM\nset -m\nsleep 600 &\necho up >>{tmp_path}/up\nwait\n")
    jobs = run.submit({"a": [0, 1, 2]}, ("user",))
    until(lambda: run.lines("start") == 2, "two cells to run")
    until((tmp_path / "up").exists, "the server to run")
    LOCAL.cancel(jobs, grace_s=0.3)
    assert not any(find_processes(process_of(job)) for job in jobs)
    assert run.lines("start") == 2


def test_a_graceful_end_reaches_the_runs(tmp_path: Path) -> None:
    run = Run(tmp_path)
    script = run.run_dir.scripts / "tau_array_a.sbatch"
    script.write_text(
        f"trap 'echo interrupted >>{run.events}; exit 1' TERM\n"
        f"echo start >>{run.events}\nfor i in $(seq 6000); do sleep 0.1; done\n"
    )
    jobs = run.submit({"a": [0, 1, 2]})
    until(lambda: run.lines("start") == 2, "two cells to run")
    LOCAL.cancel(jobs)
    assert run.lines("interrupted") == 2
    assert not any(find_processes(process_of(job)) for job in jobs)


def test_a_killed_runner_takes_its_runs_along(tmp_path: Path) -> None:
    run = Run(tmp_path)
    script = run.run_dir.scripts / "tau_array_a.sbatch"
    script.write_text(f"echo start >>{run.events}\nexec sleep 600\n")
    jobs = run.submit({"a": [0, 1]})
    until(lambda: run.lines("start") == 2, "two cells to run")
    os.kill(process_of(jobs[0]).pid, signal.SIGKILL)
    until(lambda: not find_processes(process_of(jobs[0])), "the runs to end")


def test_what_is_left_of_a_job_whose_first_process_was_killed_is_ended_too(tmp_path: Path) -> None:
    run = Run(tmp_path)
    script = run.run_dir.scripts / "user_vllm.sbatch"
    script.write_text(f"sleep 600 &\necho up >>{tmp_path}/up\nwait\n")
    jobs = run.submit({}, ("user",))
    until((tmp_path / "up").exists, "the server to run")
    os.kill(process_of(jobs[0]).pid, signal.SIGKILL)
    process = process_of(jobs[0])
    until(lambda: find_process_state(process).state == "GONE", "the first process to end")
    assert find_processes(process)
    LOCAL.cancel(jobs)
    assert not find_processes(process)


def test_jobs_outlive_the_command_that_started_them(run: Run) -> None:
    code = (
        "import sys; from pathlib import Path; from emobench.core.plan import load_plan; "
        "from emobench.core.run_dir import RunDir; "
        "from emobench.scheduler.local import LocalScheduler as Local; "
        "d = RunDir(Path(sys.argv[1])); Local().submit(load_plan(d), d, {'a': [0]}, ['user'])"
    )
    command = [sys.executable, "-c", code, str(run.run_dir.path)]
    subprocess.run(command, check=True, timeout=240, start_new_session=True)
    jobs = read_jobs(run.run_dir)
    assert load_plan(run.run_dir) == run.plan
    until(lambda: run.lines("end") == 1, "the cell to end")
    assert find_process_state(process_of(jobs[0])).state == "RUNNING"
    log = run.folder / "logs" / f"user_vllm_{jobs[0].job_id}.out"
    until(lambda: log.is_file() and log.read_text() == "serving\n", "the server's log")


def test_an_earlier_servers_file_is_removed_before_a_new_one_starts(run: Run) -> None:
    run.run_dir.endpoint("user").write_text("{}")
    run.submit({}, ("user",))
    assert not run.run_dir.endpoint("user").exists()


def test_variables_of_an_interactive_slurm_job_do_not_reach_local_jobs(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    script = run.run_dir.scripts / "user_vllm.sbatch"
    script.write_text(f"env >{run.folder}/env.tmp; mv {run.folder}/env.tmp {run.folder}/env\n")
    run.submit({}, ("user",))
    until((run.folder / "env").exists, "the job's environment")
    assert "SLURM_JOB_ID" not in (run.folder / "env").read_text()
