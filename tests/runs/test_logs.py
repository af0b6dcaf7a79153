"""Finding logs, and following one through renames, requeues and successors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emobench.cli.logs import render_index
from emobench.cli.terminal import render_plain
from emobench.core.errors import InvalidInput
from emobench.core.files import write_json
from emobench.core.plan import Plan, load_plan
from emobench.core.run_dir import RunDir
from emobench.runs import logs
from emobench.runs.logs import LogIndex, Target, find_target, follow, read_tail
from emobench.store.events import EventLog
from emobench.store.jobs import JobKind, JobRecord
from tests.support.serving import make_run
from tests.support.terminal import on_terminal


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return make_run(tmp_path, trials=2)


@pytest.fixture
def plan(run_dir: RunDir) -> Plan:
    return load_plan(run_dir)


def job(kind: str, name: str, job_id: str, minute: int, *cells: int) -> JobRecord:
    submitted = f"2026-11-21T05:{minute:02d}:00+00:00"
    return JobRecord(JobKind(kind), name, job_id, cells=cells, submitted=submitted)


def write(plan: Plan, name: str, text: str = "words\n") -> Path:
    path = Path(plan.logs, name)
    path.write_text(text)
    return path


JOBS = [
    job("server", "user", "12", 1),
    job("server", "assistant_a", "13", 1),
    job("array", "a", "14", 1, 0, 1, 2),
    job("server", "user", "9", 30),
    job("array", "a", "15", 30, 1),
    job("array", "a", "77.1", 40, 2),
]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        # The newest job's first, whatever its number; another run's files are not ours.
        (Target(server="user"), ["user_vllm_9.out", "user_vllm_12.out"]),
        (Target(server="assistant_a"), ["assistant_vllm_13.out"]),
        (Target(cell=0), ["run_retail_tool-calling_scripted_14_0.log"]),
        # A task that was requeued, and has not given its new log its name yet.
        (Target(cell=1), ["run_15_1.log", "run_retail_tool-calling_my_model_15_1.log"]),
        (Target(cell=2), ["run_77.1_2.log"]),
        (Target(cell=3), []),
    ],
)
def test_a_log_is_found_by_its_jobs(
    run_dir: RunDir, plan: Plan, target: Target, expected: list[str]
) -> None:
    for name in (
        *("user_vllm_9.out", "user_vllm_12.out", "user_vllm_99.out", "assistant_vllm_13.out"),
        *("run_retail_tool-calling_scripted_14_0.log", "run_15_1.log", "run_77.1_2.log"),
        *("run_retail_tool-calling_my_model_15_1.log", "run_99_3.log", "notes.txt"),
    ):
        write(plan, name)
    index = LogIndex(plan, run_dir, JOBS)
    assert [path.name for path in index.find_logs(target)] == expected


def test_what_was_submitted_by_hand_is_found_by_the_word_it_left(
    run_dir: RunDir, plan: Plan
) -> None:
    run_dir.endpoints.mkdir(exist_ok=True)
    EventLog(run_dir, "user", "50").note("starting")
    summary = {"job_id": "51_3", "started": "2026-11-21T05:00:00+00:00"}
    run_dir.cell(3).folder.mkdir(parents=True)
    write_json(run_dir.cell(3).summary, summary)
    write(plan, "user_vllm_50.out", "one\ntwo\n")
    write(plan, "run_retail_tool-calling_scripted_51_3.log", "")
    index = LogIndex(plan, run_dir, [])
    assert index.list_targets() == [Target(server="user"), Target(cell=3)]
    lines = render_plain(*render_index(index)).splitlines()[1:]
    assert lines[0].split()[:2] == ["server", "user"]
    assert lines[0].endswith("8 bytes  two")
    (nothing,) = render_index(LogIndex(plan, RunDir(run_dir.path / "no"), []))
    assert str(nothing).startswith("no logs yet")


@pytest.mark.parametrize(
    ("words", "target"),
    [
        (["user"], Target(server="user")),
        (["server", "user"], Target(server="user")),
        (["assistant", "a"], Target(server="assistant_a")),
        (["assistant"], Target(server="assistant_a")),
        (["server", "assistant_a"], Target(server="assistant_a")),
        (["a"], Target(server="assistant_a")),
        (["server", "a"], Target(server="assistant_a")),
        (["assistant_a"], Target(server="assistant_a")),
        (["cell", "3"], Target(cell=3)),
    ],
)
def test_targets(plan: Plan, words: list[str], target: Target) -> None:
    assert find_target(plan, words) == target


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cell"], "which cell?"),
        (["cell", "4"], "allowed: 0 to 3"),
        (["cell", "-1"], "allowed: 0 to 3"),
        (["assistant", "b"], "allowed: a"),
        (["server", "assistant_b"], "did you mean 'assistant_a'?"),
        (["asistant"], "did you mean 'assistant'?"),
        (["user", "x"], "one user server"),
        (["cell", "1", "2"], "one target at a time"),
    ],
)
def test_unknown_targets_name_what_there_is(plan: Plan, words: list[str], said: str) -> None:
    with pytest.raises(InvalidInput, match=said.replace("?", r"\?")):
        find_target(plan, words)


@pytest.mark.parametrize(
    ("text", "lines", "expected"),
    [
        ("", 3, ""),
        ("a\nb\nc\n", 2, "b\nc\n"),
        ("a\nb\nc", 2, "b\nc"),
        ("a\nb\n", 9, "a\nb\n"),
        ("a\nb\n", 0, ""),
        ("\n\n\n", 2, "\n\n"),
        ("x" * 200_000 + "\nlast\n", 1, "last\n"),
        ("first\n" + "line\n" * 50_000, 2, "line\nline\n"),
    ],
)
def test_the_end_of_a_file(tmp_path: Path, text: str, lines: int, expected: str) -> None:
    (tmp_path / "log").write_text(text)
    assert read_tail(tmp_path / "log", lines) == (expected.encode(), len(text))


class Script:
    """Changes the files between two looks of `follow`, and interrupts it after the last."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self._steps: Iterator[Callable[[], object]] = iter(steps)
        self.printed = b""

    def sleep(self, _: float) -> None:
        step = next(self._steps, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    def write(self, data: bytes) -> None:
        self.printed += data


def append(path: Path, text: str) -> None:
    with path.open("a") as stream:
        stream.write(text)


def continue_after_requeue(begun: Path, target: Path) -> None:
    """As a run does that finds its log of before the requeue."""
    append(target, begun.read_text())
    begun.unlink()


def hand_over(before: Path, after: Path) -> None:
    append(before, "seven\n")
    after.write_text("eight\n")


def test_following_through_a_rename_a_requeue_and_a_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LOOK_S", 0)
    begun, named, successor = (tmp_path / name for name in ("run_1_0.log", "run_x_1_0.log", "s"))
    script = Script(
        lambda: begun.write_text("one\ntwo\nthree\n"),
        lambda: append(begun, "four\n"),
        lambda: begun.rename(named),
        lambda: append(named, "five\n"),
        lambda: begun.write_text("requeued\n"),
        lambda: continue_after_requeue(begun, named),
        lambda: append(named, "six\n"),
        lambda: hand_over(named, successor),
        lambda: append(successor, "nine\n"),
        lambda: None,
    )

    def newest() -> Path | None:
        return next((path for path in (successor, begun, named) if path.exists()), None)

    notes: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        follow(newest, Target(cell=0), 2, script.write, notes.append, script.sleep)
    words = "two three four five requeued six seven eight nine"
    assert script.printed.decode().split() == words.split()
    paths = [begun, begun, named, successor]
    assert notes == ["cell 0 has no log yet; waiting for it", *(f"==> {path}" for path in paths)]


def test_a_log_cannot_act_on_a_terminal_nor_through_a_pipe(
    run_dir: RunDir, plan: Plan, tmp_path: Path
) -> None:
    hostile = "\x1b[31mred\x1b[0m \x1b]0;owned\x07 10 %\r100 %\n\x9b2J \u65e5\n"
    run_dir.endpoints.mkdir(exist_ok=True)
    EventLog(run_dir, "user", "50").note("starting")
    write(plan, "user_vllm_50.out", hostile)
    shown = on_terminal(tmp_path, "logs", str(run_dir.path), "user")
    assert not set(shown) & set("\x1b\x07\x9b")
    assert "red \\x1b]0;owned\\x07 10 %\r\n100 %\r\n\\x9b2J \u65e5" in shown
    command = [sys.executable, "-m", "emobench.cli", "logs", str(run_dir.path), "user"]
    piped = subprocess.run(command, capture_output=True, timeout=240, check=True)
    assert piped.stdout.decode() == "red \\x1b]0;owned\\x07 10 %\n100 %\n\\x9b2J \u65e5\n"
