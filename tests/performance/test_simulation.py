"""The simulation of studies: everything ends once, and in the time that its servers take."""

from __future__ import annotations

import pytest

from emobench.core.hardware import ModelSize
from emobench.scripted.timing import build_time_model
from performance.conversations import begin_conversation
from performance.large_study import _find_end
from performance.simulation import CellSpec, Outcome, Pacing, ServerSpec, Simulation, Study

MODEL = build_time_model("h100", ModelSize(4, 4))


def simulate(pacing: Pacing, late_s: float = 0.0) -> Outcome:
    cells = [CellSpec(number, "a", "airline", range(10)) for number in range(4)]
    servers = [ServerSpec(MODEL), ServerSpec(MODEL, starts_s=late_s)]
    return Simulation(Study([ServerSpec(MODEL)], {"a": servers}, cells, pacing)).run()


@pytest.mark.parametrize("pacing", [Pacing(4, 1), Pacing(2, 8), Pacing(4)])
def test_every_conversation_ends_once_however_many_run(pacing: Pacing) -> None:
    outcome = simulate(pacing)
    assert len(outcome.ends_s) == 40
    assert list(outcome.ends_s) == sorted(outcome.ends_s)
    # Neither what is said nor how often depends on the pacing.
    assert outcome.calls == simulate(Pacing(1, 2)).calls
    generated = sum(s.engine.counters.generation_tokens for s in outcome.servers.values())
    again = simulate(pacing)
    assert again.ends_s == outcome.ends_s
    assert generated == sum(s.engine.counters.generation_tokens for s in again.servers.values())


def test_more_at_a_time_take_less_time_and_a_late_server_is_not_waited_for() -> None:
    one, eight = simulate(Pacing(4, 1)), simulate(Pacing(4, 8))
    assert eight.seconds < one.seconds
    late = simulate(Pacing(4, 8), late_s=10_000)
    assert late.seconds < 10_000


def test_a_conversation_s_prompts_grow_by_what_is_said() -> None:
    conversation = begin_conversation(7, "airline", 0, seed=1, talk=1.0)
    said = 0
    while conversation.begin_turn():
        role, tokens, result = conversation.reply
        before = {each: prompt[-1] for each, prompt in conversation.prompts.items()}
        conversation.end_turn()
        said += tokens + result
        grown = {each: conversation.prompts[each][-1][1] - before[each][1] for each in before}
        assert grown == {"user": 0 if result else tokens, "assistant": tokens + result}
        assert role == "assistant" or not result
    assert conversation.prompts["assistant"][1][1] == said


def test_servers_that_begin_apart_end_their_conversations_together() -> None:
    # 1 a second alone for 10 s, then 2 a second: 30 are done at 20 s.
    assert _find_end(30, 1.0, [0.0, 10.0]) == 20.0
    assert _find_end(5, 1.0, [0.0, 10.0]) == 5.0
