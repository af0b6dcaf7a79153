"""A rejection that meets every conversation is no agent's mistake; one of a conversation's own
content is. Over real HTTP, through whole cells."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emobench.cli.main import main
from emobench.core.outcomes import Outcome
from emobench.runner.rejections import RejectionRow
from emobench.store.episodes import EpisodeError, EpisodeRecord
from tests.support.model_server import Reply, is_user, recording

Answer = Callable[[dict[str, Any]], Reply]
CALL_REFUSED = "Failed to parse tool call arguments as JSON (request 7f3a90)"
FLY = ("fly", "{}")


class Cell:
    """One cell by hand; each run of it has a server of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, answer: Answer, *options: str, tasks: str = "0-4") -> int:
        with recording(answer) as server:
            self.calls = server.requests
            arguments = ["--env", "retail", "--model", "m", "--tasks", tasks, "--probe", "off"]
            arguments += ["--max-concurrency", "1", "--model-base-url", server.url]
            code = main([*arguments, "--run-dir", str(self.folder), *options], command="run")
            self.calls = server.requests
        return code

    @property
    def records(self) -> list[dict[str, Any]]:
        lines = (self.folder / "cells/0/episodes.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    @property
    def ends(self) -> list[tuple[int, str, float | None]]:
        """(task, outcome, reward) of each line."""
        return [(r["task_id"], r["outcome"], r["reward"]) for r in self.records]

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "cells/0/variant_summary.json").read_text()))


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("emobench.runner.cell.BACKOFF_S", (0.0, 0.0))
    monkeypatch.setattr("emobench.llm.transport.RETRY_AFTER_S", (0.0,))
    return Cell(tmp_path / "run")


def refusing(refusal: Reply, role: str = "assistant") -> Answer:
    """One role is refused, the other one answered."""
    return lambda request: refusal if is_user(request) == (role == "user") else Reply("Hm.")


def infra(*tasks: int) -> list[tuple[int, str, None]]:
    return [(task, "infra_error", None) for task in tasks]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, "Your credit balance is too low to access the API."),
        (400, "The model `gpt-9` does not exist or you do not have access to it."),
        (400, "<html><head><title>400 Bad Request</title></head><body>nginx</body></html>"),
        (413, "<html><head><title>413 Request Entity Too Large</title></head></html>"),
        (422, "Unknown parameter: 'seed'"),
        (400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser'),
        (400, "Invalid schema for function 'calculate': 'object' is not valid"),
        (400, "this model does not support tools"),
    ],
)
def test_a_rejection_of_the_request_as_such_is_missing_data(
    cell: Cell, status: int, error: str
) -> None:
    assert cell.run(refusing(Reply(status=status, error=error))) == 1
    assert cell.ends == infra(*range(len(cell.ends)))
    assert len(cell.ends) >= 3
    assert cell.summary["mean_reward"] is None
    assert error[:20] in cell.summary["message"]
    assert cell.run(lambda request: Reply("Hm."), "--max-steps", "1") in (0, 2)


@pytest.mark.parametrize(
    "error",
    ["invalid tool call", "Failed to parse tool call: unknown function 'fly'", "no such tool"],
)
@pytest.mark.parametrize("status", [400, 500])
def test_no_tool_call_is_the_users(cell: Cell, status: int, error: str) -> None:
    assert cell.run(refusing(Reply(status=status, error=error), "user"), tasks="0") == 1
    assert cell.ends == infra(0)


@pytest.mark.parametrize(
    "error",
    [
        "CUDA error: invalid device function",
        "tool parser crashed",
        "Internal Server Error: function tools.invoke failed to parse",
    ],
)
def test_a_word_in_a_500_makes_it_nobodys_mistake(cell: Cell, error: str) -> None:
    """The server goes on answering whatever has no tools; still, no call was made up."""

    def answer(request: dict[str, Any]) -> Reply:
        return Reply(status=500, error=error) if request.get("tools") else Reply("Hm.")

    assert cell.run(answer, tasks="0") == 1
    assert cell.ends == infra(0)


def failing_after_a_made_up_call(status_without_tools: int) -> Answer:
    def answer(request: dict[str, Any]) -> Reply:
        if is_user(request):
            return Reply("Hi.")
        if any(message["role"] == "tool" for message in request["messages"]):
            return Reply(status=500, error="Internal Server Error")
        if request.get("tools"):
            return Reply(None, [FLY])
        return Reply("Hm.", status=status_without_tools, error="engine dead")

    return answer


def test_a_500_after_a_made_up_call_is_the_agents_where_the_server_goes_on(cell: Cell) -> None:
    assert cell.run(failing_after_a_made_up_call(200), tasks="0") == 0
    assert cell.ends == [(0, "agent_error", 0.0)]


def test_a_500_of_a_dead_server_is_nobodys_mistake_whatever_was_made_up(cell: Cell) -> None:
    assert cell.run(failing_after_a_made_up_call(500), tasks="0") == 1
    assert cell.ends == infra(0)


def test_a_500_that_quotes_a_made_up_call_needs_a_server_that_goes_on(cell: Cell) -> None:
    error = 'Failed to parse input: <tool_call>{"name": "fly", "arguments": {}}</tool_call>'
    assert cell.run(refusing(Reply(status=500, error=error)), tasks="0") == 1
    assert cell.ends == infra(0), "it fails without tools as well"


def test_the_same_rejection_three_times_in_a_row_is_the_servers(cell: Cell) -> None:
    """Also those that ended before the third are missing, and are run again."""
    assert cell.run(refusing(Reply(status=400, error=CALL_REFUSED))) == 1
    assert cell.ends == infra(*range(len(cell.ends)))
    assert (cell.summary["status"], cell.summary["exit_reason"]) == ("incomplete", "infra_errors")
    assert "3 conversations in a row" in cell.summary["message"]
    assert "Failed to parse tool call" in cell.summary["message"]
    assert len(cell.records[0]["traj"]) == 2, "the transcript stays"
    before = len(cell.ends)
    assert cell.run(lambda request: Reply("Hm.")) == 0
    assert [end[:2] for end in cell.ends[before:]] == [(task, "max_steps") for task in range(5)]


def test_two_are_the_agents(cell: Cell) -> None:
    assert cell.run(refusing(Reply(status=400, error=CALL_REFUSED)), tasks="0-1") == 0
    assert cell.ends == [(task, "agent_error", 0.0) for task in (0, 1)]


def rejecting_tasks(*rejected: int) -> Answer:
    """The conversations of these, by their order, are refused; the others talk."""
    begun = iter(range(100))

    def answer(request: dict[str, Any]) -> Reply:
        if is_user(request):
            return Reply("Go on.")
        if len(request["messages"]) == 2 and next(begun) in rejected:
            return Reply(status=400, error=CALL_REFUSED)
        return Reply("Hm.")

    return answer


def test_a_row_is_broken_by_a_conversation_that_ended_otherwise(cell: Cell) -> None:
    assert cell.run(rejecting_tasks(0, 1, 3, 4), "--max-steps", "2") == 0
    expected = ["agent_error", "agent_error", "max_steps", "agent_error", "agent_error"]
    assert [end[:2] for end in cell.ends] == list(enumerate(expected))


def test_different_rejections_are_no_row(cell: Cell) -> None:
    words = iter("abcde")

    def answer(request: dict[str, Any]) -> Reply:
        if is_user(request):
            return Reply("Go on.")
        return Reply(status=400, error=f"invalid tool call '{next(words)}'")

    assert cell.run(answer) == 0
    assert cell.ends == [(task, "agent_error", 0.0) for task in range(5)]


def test_a_context_too_short_for_any_beginning_is_the_servers(cell: Cell) -> None:
    lengths = iter(range(5000, 6000))

    def answer(request: dict[str, Any]) -> Reply:
        if is_user(request):
            return Reply("Go on.")
        error = f"maximum context length is 4096 tokens, you requested {next(lengths)} tokens"
        return Reply(status=400, error=error)

    assert cell.run(answer) == 1
    assert cell.ends == infra(*range(len(cell.ends)))


def test_conversations_that_outgrow_a_context_are_data_however_many(cell: Cell) -> None:
    def answer(request: dict[str, Any]) -> Reply:
        if not is_user(request) and len(request["messages"]) > 3:
            return Reply(status=400, error="maximum context length is 8192 tokens")
        return Reply("Hm.")

    assert cell.run(answer) == 0
    assert cell.ends == [(task, "context_overflow", 0.0) for task in range(5)]


def test_an_end_before_the_row_is_full_leaves_them_to_the_next_run(cell: Cell) -> None:
    """Two rejections, then a server that is gone: too little to blame the agent by."""
    begun = iter(range(100))

    def answer(request: dict[str, Any]) -> Reply:
        if is_user(request):
            return Reply("Go on.")
        status = 400 if next(begun) < 2 else 503
        return Reply(status=status, error=CALL_REFUSED)

    assert cell.run(answer) == 1
    assert {end[1:] for end in cell.ends} == {("infra_error", None)}
    assert {end[0] for end in cell.ends} == {0, 1, 2, 3, 4}


def rejected(
    task: int, words: str = CALL_REFUSED, kind: str = "assistant:rejected"
) -> EpisodeRecord:
    return EpisodeRecord(
        task_id=task,
        trial=1,
        outcome=Outcome.AGENT_ERROR,
        reward=0.0,
        steps=3,
        error=EpisodeError(kind, words),
    )


def missing(record: EpisodeRecord, why: str) -> EpisodeRecord:
    assert record.error is not None
    error = EpisodeError(record.error.type, f"{why}: {record.error.message}")
    return replace(record, outcome=Outcome.INFRA_ERROR, reward=None, error=error)


SAME = "the same rejection ended 3 conversations in a row, so it is the server's"
UNKNOWN = "the cell ended before it was known whether every conversation is rejected"


OTHER_WORDS = "invalid tool call (id req-{}ab)"


def refusing_in_turn(*words: str) -> Answer:
    """The assistant's conversations are refused, each in the next of these words."""
    numbers = iter(range(1000))

    def answer(request: dict[str, Any]) -> Reply:
        if is_user(request):
            return Reply("Go on.")
        number = next(numbers)
        return Reply(status=400, error=words[number % len(words)].format(number))

    return answer


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("others", [1, 2])
def test_a_server_that_says_it_in_turns_is_no_agents_mistake(
    cell: Cell, concurrency: int, others: int
) -> None:
    """As two gateways behind one address do, each with words and ids of its own."""
    words = [CALL_REFUSED, OTHER_WORDS, "malformed function call {}"][: others + 1]
    options = ["--max-concurrency", str(concurrency)]
    assert cell.run(refusing_in_turn(*words), *options, tasks="0-11") == 1
    assert {end[1:] for end in cell.ends} == {("infra_error", None)}
    assert "3 conversations in a row" in " ".join(r["error"]["message"] for r in cell.records)


def test_what_follows_a_servers_rejection_in_other_words_is_missing_too(cell: Cell) -> None:
    """Eight are under way when the third of the same has ended the cell."""
    words = [CALL_REFUSED] * 3 + [f"invalid tool call '{letter}'" for letter in "abcdefghijklm"]
    assert cell.run(refusing_in_turn(*words), "--max-concurrency", "8", tasks="0-11") == 1
    assert {end[1:] for end in cell.ends} == {("infra_error", None)}


def test_a_long_row_of_different_rejections_is_written_before_its_end() -> None:
    """What is held back is lost to a kill, so that no more is held than turns of three."""
    row = RejectionRow()
    records = [rejected(n, f"invalid call of {chr(97 + n)}") for n in range(12)]
    assert [len(row.sort(record)) for record in records] == [0] * 9 + [1] * 3
    assert row.release() == records[3:]


def test_what_a_row_holds_back_and_what_it_says() -> None:
    row = RejectionRow()
    first, second, third, fourth = (rejected(n, f"invalid call (request {n}x7)") for n in range(4))
    failed = EpisodeRecord(task_id=4, trial=1, outcome=Outcome.FAILED, reward=0.0)
    away = replace(rejected(5, "away"), outcome=Outcome.INFRA_ERROR, reward=None)
    assert [row.sort(first), row.sort(second)] == [[], []]
    assert row.sort(away) == [away], "it says nothing of the rejection"
    assert row.sort(third) == [missing(each, SAME) for each in (first, second, third)]
    assert row.sort(fourth) == [missing(fourth, SAME)], "and so on"
    assert row.sort(failed) == [failed]
    assert [row.sort(first), row.release(), row.release()] == [[], [first], []]
    other = rejected(6, "another")
    assert [row.sort(second), row.sort(other)] == [[], []]
    assert row.void() == [missing(second, UNKNOWN), missing(other, UNKNOWN)]
    assert [row.sort(failed), row.void()] == [[failed], []]


@pytest.mark.parametrize(
    ("kind", "steps", "held"),
    [
        ("user:rejected", 3, True),
        ("assistant:context_overflow", 0, True),
        ("assistant:context_overflow", 1, False),
        ("assistant:no_reply", 0, False),
        ("JSONDecodeError", 0, False),
    ],
)
def test_what_is_a_rejection(kind: str, steps: int, held: bool) -> None:
    record = replace(rejected(0, kind=kind), steps=steps)
    assert RejectionRow().sort(record) == ([] if held else [record])
