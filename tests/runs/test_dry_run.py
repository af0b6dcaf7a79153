"""A dry run says what would be done, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from emobench.cli.dry_run import describe
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.runs.dry_run import DryRun, rehearse
from emobench.runs.submission import submit
from emobench.store.jobs import read_jobs
from tests.support.plans import CUDA, make_plan, scripted
from tests.support.runs import finish_cell
from tests.support.scripted_scheduler import Killed, ScriptedScheduler


@pytest.fixture
def scheduler() -> ScriptedScheduler:
    return ScriptedScheduler()


class Folder:
    """A run directory beside one for dry runs."""

    def __init__(self, path: Path, scheduler: ScriptedScheduler) -> None:
        self.path, self.scheduler = path, scheduler
        self.run_dir = RunDir(path / "run")
        self.count = 0

    def plan(self, trials: int = 1, throttle: int = 2, seed: int = 10, mem: str = "4G") -> Plan:
        array = CUDA.array.model_copy(update={"mem": mem})
        return make_plan(
            CUDA.model_copy(update={"array": array}),
            self.path / "logs",
            scripted(),
            {"a": scripted()},
            trials=trials,
            throttle=throttle,
            seed=seed,
        )

    def submit(self, plan: Plan) -> None:
        submit(plan, self.run_dir, schedulers=self.scheduler.all())

    def rehearse(self, plan: Plan) -> DryRun:
        """The dry run, which leaves everything but its own folder as it was."""
        self.count += 1
        out = self.path / f"out{self.count}"
        before = self.contents(), dict(self.scheduler.script), dict(self.scheduler.throttles)
        done = rehearse(plan, self.run_dir, out, self.scheduler.all())
        after = self.contents(), dict(self.scheduler.script), dict(self.scheduler.throttles)
        assert after == before
        assert {path.parent for path in done.paths} == {out, out / "scripts"}
        return done

    def contents(self) -> dict[Path, tuple[bytes, int]]:
        return {
            path: (path.read_bytes(), path.stat().st_mtime_ns)
            for path in self.path.rglob("*")
            if path.is_file() and not path.is_relative_to(self.path / f"out{self.count}")
        }

    def said(self, plan: Plan) -> list[str]:
        return list(describe(plan, self.run_dir, self.rehearse(plan)))


@pytest.fixture
def folder(tmp_path: Path, scheduler: ScriptedScheduler) -> Folder:
    return Folder(tmp_path, scheduler)


def test_before_the_first_submission(folder: Folder) -> None:
    plan = folder.plan()
    done = folder.rehearse(plan)
    assert not folder.run_dir.path.exists()
    assert not (folder.path / "logs").exists()
    assert list(describe(plan, folder.run_dir, done)) == [
        "would submit server user",
        "would submit server assistant_a",
        "would submit array a: 2 cells (0-1), 2 at a time",
        "would submit the clean-up job, after the arrays",
    ]
    folder.submit(plan)
    submitted = {path.name: path.read_text() for path in folder.run_dir.scripts.iterdir()}
    assert {path.name: path.read_text() for path in done.paths[1:]} == submitted
    assert done.paths[0].read_text() == folder.run_dir.plan.read_text()


def test_beside_a_live_run(folder: Folder) -> None:
    folder.submit(folder.plan())
    assert folder.said(folder.plan()) == [
        "would submit nothing",
        "2 cells that are not done have a job already",
    ]
    assert folder.said(folder.plan(throttle=5, seed=3, mem="8G"))[2:] == [
        f"against the plan in {folder.run_dir.path}:",
        "  throttle: was 2, now 5, for arrays in the queue too",
        "not for the jobs in the queue, before they are cancelled and submitted again:",
        "  seed: was 10, now 3",
        '  profile.array.mem: was "4G", now "8G"',
    ]


def test_what_would_change_when_cells_are_added(
    folder: Folder, scheduler: ScriptedScheduler
) -> None:
    folder.submit(folder.plan())
    said = folder.said(folder.plan(trials=2, throttle=5))
    assert said[:3] == [
        "would submit array a: 2 cells (2-3), 5 at a time",
        "would submit the clean-up job, after the arrays",
        "2 cells that are not done have a job already",
    ]
    assert "  trials: was 1, now 2" in said
    assert "  cells: 2 new" in said
    at = said.index("  tau_array_a.sbatch: changed")
    assert "    -#SBATCH --array=0-1%2" in said[at:]
    assert "    +#SBATCH --array=0-3%5" in said[at:]
    for cell in (0, 1):
        finish_cell(folder.run_dir, cell)
    for job in read_jobs(folder.run_dir):
        scheduler.script[job.job_id] = "COMPLETED"
    assert folder.said(folder.plan()) == ["would submit nothing: every cell is done"]


def test_what_a_killed_command_left(folder: Folder, scheduler: ScriptedScheduler) -> None:
    scheduler.killed_at = "a", True
    with pytest.raises(Killed):
        folder.submit(folder.plan())
    scheduler.revive()
    assert folder.said(folder.plan()) == [
        "would take job 102 on record: array a, found in the queue",
        "would submit the clean-up job, after the arrays",
        "2 cells that are not done have a job already",
    ]
