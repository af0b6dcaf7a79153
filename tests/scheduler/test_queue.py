"""Reading squeue's and sacct's rows, and writing array indices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emobench.core.errors import EmobenchError
from emobench.core.job_id import expand_id
from emobench.core.ranges import format_ranges
from emobench.scheduler import slurm_commands
from emobench.scheduler.interface import JobState, Phase
from emobench.scheduler.slurm_commands import CommentedJob, ask_slurm_states, find_commented_jobs


@pytest.mark.parametrize(
    ("row", "ids"),
    [
        ("20", ["20"]),
        ("20_3", ["20_3"]),
        ("20_[3-4,7-9%2]", ["20_3", "20_4", "20_7", "20_8", "20_9"]),
        ("20_[5]", ["20_5"]),
        ("20_[0-6:3]", ["20_0", "20_3", "20_6"]),
        ("20+0", ["20"]),
        ("20+1", ["21"]),
    ],
)
def test_rows_of_pending_tasks_are_expanded(row: str, ids: list[str]) -> None:
    assert expand_id(row) == ids


@given(st.sets(st.integers(0, 2000), min_size=1))
def test_compressed_indices_mean_the_same(indices: set[int]) -> None:
    assert expand_id(f"1_[{format_ranges(indices, comma=',')}]") == [
        f"1_{index}" for index in sorted(indices)
    ]


def _answers(monkeypatch: pytest.MonkeyPatch, squeue: str | None, sacct: str | None) -> None:
    outputs = {"squeue": squeue, "sacct": sacct}
    monkeypatch.setattr(
        slurm_commands, "run_command", lambda command: (outputs[command[0]], "said no")
    )


def test_the_queue_says_what_lives_and_accounting_how_the_rest_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _answers(
        monkeypatch,
        "1|RUNNING|None|cuda1\n2_[1-2%8]|PENDING|Priority|\n2_0|COMPLETED|None|cuda2\n",
        "1|COMPLETED|0:0|None|cuda1\n2_0|COMPLETED|0:0|None|cuda2\n3|CANCELLED by 0|0:15|None|c\n"
        "4|RUNNING|0:0|None|cuda1\n",
    )
    assert ask_slurm_states(["1", "2", "3", "4", "5"]) == {
        "1": JobState("RUNNING", "", "cuda1"),
        "2_0": JobState("COMPLETED", "", "cuda2", "0:0"),
        "2_1": JobState("PENDING", "Priority"),
        "2_2": JobState("PENDING", "Priority"),
        "3": JobState("CANCELLED", "", "c", "0:15"),
        "4": JobState("GONE", "", "cuda1", "0:0"),
        "5": JobState("GONE"),
    }


def test_without_any_answer_nothing_is_said_to_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, None, None)
    assert ask_slurm_states(["1"]) == {"1": JobState("UNKNOWN")}
    assert JobState("UNKNOWN").live


@pytest.mark.parametrize(
    ("state", "reason", "held"),
    [
        *(("PENDING", "JobHeldUser", True), ("PENDING", "JobHeldAdmin", True)),
        *(("PENDING", "launch failed requeued held", True), ("PENDING", "Priority", False)),
        *(("PENDING", "launch_failed_requeued_held", True), ("PENDING", "", False)),
        *(("PENDING", "job requeued in held state", True), ("PENDING", "JobHoldMaxRequeue", True)),
        ("PENDING", "QOSUsageThreshold", False),
        *(("REQUEUE_HOLD", "", True), ("SPECIAL_EXIT", "", True), ("RESV_DEL_HOLD", "", True)),
        *(("PREEMPTED", "", False), ("CANCELLED", "JobHeldUser", False), ("UNKNOWN", "", False)),
    ],
)
def test_what_is_held(state: str, reason: str, held: bool) -> None:
    assert JobState(state, reason).is_held == held
    assert not held or JobState(state, reason).phase is Phase.QUEUED


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        *(("PENDING", Phase.QUEUED), ("CONFIGURING", Phase.QUEUED), ("REQUEUED", Phase.QUEUED)),
        *(("PREEMPTED", Phase.QUEUED), ("RUNNING", Phase.STARTED), ("COMPLETING", Phase.STARTED)),
        *(("COMPLETED", Phase.ENDED), ("NODE_FAIL", Phase.ENDED), ("GONE", Phase.ENDED)),
        ("UNKNOWN", Phase.UNKNOWN),
    ],
)
def test_what_a_state_means(state: str, phase: Phase) -> None:
    """One table: whoever waits for a server, shows it or submits for it reads the same."""
    assert JobState(state).phase is phase
    assert JobState(state).live == (phase is not Phase.ENDED)


def test_jobs_of_the_queue_come_with_their_comment_and_the_tasks_that_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[list[str]] = []
    rows = (
        "12_[3-4%8]|PENDING|1700000005|an array: a|b\n12_0|COMPLETED|1700000005|an array: a|b\n"
        "9|RUNNING|1700000004|a server\n13|COMPLETED|1700000001|it has ended\n8|PENDING|N/A|\n"
    )

    def answer(command: list[str]) -> tuple[str | None, str]:
        asked.append(command)
        return rows, ""

    monkeypatch.setattr(slurm_commands, "run_command", answer)
    assert find_commented_jobs({1000, 0}) == [
        CommentedJob("8", 0.0, "", ()),
        CommentedJob("9", 1700000004.0, "a server", ()),
        CommentedJob("12", 1700000005.0, "an array: a|b", (0, 3, 4)),
    ]
    assert "--user=0,1000" in asked[0]
    monkeypatch.setattr(slurm_commands, "run_command", lambda command: (None, "no controller"))
    with pytest.raises(EmobenchError, match="squeue does not answer: no controller"):
        find_commented_jobs({0})
