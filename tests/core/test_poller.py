"""What does not answer is neither waited for nor kept quiet about."""

from __future__ import annotations

import threading

import pytest

from emobench.core import poller as poller
from emobench.core.poller import Poller
from tests.support.processes import until


def test_an_answer_is_kept_until_the_next_is_due() -> None:
    answers = iter(range(10))
    asked = Poller("squeue", lambda: next(answers), 60)
    assert asked.poll(5) == 0
    assert asked.poll(5) == 0
    asked.refresh_soon()
    assert asked.poll(5) == 1
    assert (asked.answers, asked.problem) == (2, "")


def test_an_answer_that_does_not_come_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "PATIENCE_S", 0.05)
    release = threading.Event()
    asked = Poller("squeue", release.wait, 0)
    assert asked.poll(0.1) is None
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", lambda *_: pytest.fail("it waits again"))
        assert asked.poll(0.1) is None
    assert "squeue has not answered for" in asked.problem
    release.set()
    until(lambda: asked.value, "the answer")
    assert asked.problem == ""


def test_a_failure_is_a_problem_and_the_old_answer_stays() -> None:
    answers = [1]

    def ask() -> int:
        if not answers:
            raise OSError("Connection refused")
        return answers.pop()

    asked = Poller("/metrics", ask, 0)
    assert asked.poll(5) == 1
    assert asked.poll(5) == 1
    assert asked.problem == "/metrics: Connection refused"
