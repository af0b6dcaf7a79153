"""The judge over HTTP: kept by content, resumed, and honest about what it did not get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emobench.analysis.judge import asking as judging
from emobench.analysis.judge.asking import Asked, Judge, ask_all
from emobench.analysis.judge.labels import hash_turn
from emobench.llm import transport
from emobench.llm.transport import ModelEndpoint
from emobench.scripted.user import PHRASES
from emobench.store.labels import Answer, AnswerStore, JudgeBusy, Label, read_answers
from tests.support.model_server import Reply, recording
from tests.support.scripted import Launch

ANGER = '{"emotion": "anger", "intensity": 1}'
TURNS = ["Yes.", *(f"{phrase} It is #W{n}." for n, phrase in enumerate(PHRASES["anger"]))]


def ask(url: str, path: Path, turns: list[str] = TURNS, model: str = "scripted") -> Asked:
    url = url if url.endswith("/v1") else f"{url}/v1"
    target = ModelEndpoint(model, url, "none", timeout_s=20)
    with AnswerStore(path) as store:
        return ask_all(turns, Judge(target, 100), model, store, concurrency=3, seed=1)


def emotions(path: Path) -> dict[str, str | None]:
    answers = read_answers(path)
    found = {turn: answers.get(hash_turn(turn, "scripted")) for turn in TURNS}
    return {turn: each.label.shown if each and each.label else None for turn, each in found.items()}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "RETRY_AFTER_S", (0.0,))
    monkeypatch.setattr("emobench.llm.endpoint_limits.BACKOFF_S", 0.001)


def test_each_turn_is_asked_once_and_kept(launch: Launch, tmp_path: Path) -> None:
    path = tmp_path / "judge.jsonl"
    url = launch(role="judge").url
    asked = ask(url, path, [*TURNS, *TURNS])
    assert (asked.distinct, asked.known, asked.answered, asked.failed) == (4, 0, 4, 0)
    assert list(emotions(path).values()) == ["neutral", "anger", "anger", "anger"]
    before = path.read_bytes()
    again = ask("http://127.0.0.1:9", path)  # nobody is there, and nobody is asked
    assert (again.known, again.answered, again.failed) == (4, 0, 0)
    assert path.read_bytes() == before


def test_any_role_of_the_scripted_server_can_judge(launch: Launch, tmp_path: Path) -> None:
    ask(launch(role="user").url, tmp_path / "judge.jsonl")
    assert list(emotions(tmp_path / "judge.jsonl").values())[1] == "anger"


def test_seeded_mistakes(launch: Launch, tmp_path: Path) -> None:
    turns = [f"This is outrageous! It is #{number}." for number in range(40)]
    kinds = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        path = tmp_path / name
        ask(launch(role="judge", mistakes=0.5, seed=seed).url, path, turns)
        answers = read_answers(path)
        labels = [answers[hash_turn(turn, "scripted")].label for turn in turns]
        kinds.append([label.shown if label else None for label in labels])
    assert kinds[0] == kinds[1] != kinds[2]
    assert 8 < kinds[0].count("anger") < 32


def test_what_gets_no_answer_is_missing_and_asked_again(launch: Launch, tmp_path: Path) -> None:
    path = tmp_path / "judge.jsonl"
    failed = ask(launch(role="judge", faults={"http_500": 1.0}).url, path)
    assert (failed.answered, failed.failed) == (0, 4)
    assert "HTTP 500" in failed.why
    assert path.read_bytes() == b""
    assert ask(launch(role="judge").url, path).failed == 0


def test_a_judge_that_is_gone_is_not_asked_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "MAX_FAILURES", 5)
    with recording(lambda request: Reply(status=503, error="busy")) as server:
        asked = ask(server.url, tmp_path / "judge.jsonl", [f"turn {n}" for n in range(200)])
    assert asked.failed == 200
    assert len(server.bodies) < 150


def test_a_server_without_response_formats(tmp_path: Path) -> None:
    def answer(request: dict[str, Any]) -> Reply:
        if "response_format" in request:
            return Reply(status=400, error="response_format is not supported")
        return Reply(ANGER)

    with recording(answer) as server:
        asked = ask(server.url, tmp_path / "judge.jsonl")
    assert asked.failed == 0
    assert all(request["temperature"] == 0 for request in server.requests)
    # At most each of the three at a time learned it by itself.
    assert sum("response_format" in request for request in server.requests) <= 3


def test_a_judge_that_has_had_too_many_requests_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = Reply(status=429, error="slow down", headers={"retry-after-ms": "30"})
    replies = iter([busy] * 9)
    with recording(lambda request: next(replies, None) or Reply(ANGER)) as server:
        asked = ask(server.url, tmp_path / "judge.jsonl")
    assert (asked.answered, asked.failed) == (len(TURNS), 0)
    assert capsys.readouterr().err.count("rate limit of scripted at") == 1


def test_an_answer_without_a_label_is_kept_as_missing(tmp_path: Path) -> None:
    path = tmp_path / "judge.jsonl"
    with recording(lambda request: Reply("I would rather not say.")) as server:
        first = ask(server.url, path)
        again = ask(server.url, path)
    assert (first.unreadable, first.failed) == (4, 0)
    assert (again.unreadable, again.answered) == (4, 0)
    assert len(server.bodies) == 4
    assert set(emotions(path).values()) == {None}


def test_order_is_shuffled_by_the_seed(tmp_path: Path) -> None:
    turns = [f"turn {number:03}" for number in range(30)]
    orders = []
    with recording(lambda request: Reply(ANGER)) as server:
        for name in ("a", "b"):
            server.bodies.clear()
            target = ModelEndpoint("m", server.url, "none", timeout_s=20)
            with AnswerStore(tmp_path / name) as store:
                ask_all(turns, Judge(target, 100), "m", store, concurrency=1, seed=7)
            orders.append([request["messages"][1]["content"] for request in server.requests])
    assert orders[0] == orders[1]
    places = [next(i for i, text in enumerate(orders[0]) if turn in text) for turn in turns]
    assert places != sorted(places)


def line(number: int) -> Answer:
    label = Label("anger", 1 + number % 3, "strict") if number % 4 else None
    return Answer(f"key{number}", "model", label, "said\u2028é\n" * number)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(min_value=0), tail=st.binary(max_size=5))
def test_any_prefix_can_be_gone_on_with(tmp_path: Path, cut: int, tail: bytes) -> None:
    path = tmp_path / "judge.jsonl"
    path.unlink(missing_ok=True)
    with AnswerStore(path) as store:
        store.append(line(number) for number in range(4))
    data = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(data) if byte == ord("\n")]
    cut %= len(data) + 1
    path.write_bytes(data[:cut] + tail.replace(b"\n", b""))
    whole = sum(end <= cut for end in ends)
    with AnswerStore(path) as store:
        assert list(store.answers.values()) == [line(number) for number in range(whole)]
        store.append(line(number) for number in range(whole, 4))
    assert path.read_bytes() == data
    assert read_answers(path) == {f"key{number}": line(number) for number in range(4)}


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with AnswerStore(tmp_path / "j"), pytest.raises(JudgeBusy), AnswerStore(tmp_path / "j"):
        pass


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        '{"schema": 2, "key": "k", "model": "m", "emotion": "anger", "intensity": 1}',
        '{"schema": 1, "key": "k", "model": "m", "emotion": "joy", "intensity": 1}',
        '{"schema": 1, "key": "k", "model": "m", "emotion": "anger", "intensity": 9}',
        '{"schema": 1, "model": "m", "emotion": "anger", "intensity": 1}',
        "[]",
    ],
)
def test_damaged_lines_are_left_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "j").write_text(text + "\n")
    assert read_answers(tmp_path / "j") == {}
    assert read_answers(tmp_path / "absent") == {}
