"""Patterns by variant: means and paired differences against scipy, and what is missing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from emobench.analysis.transcript.fault import Fault, Finding
from emobench.analysis.transcript.patterns import Features
from emobench.analysis.transcript.tally import (
    ConversationTable,
    Summary,
    Tally,
    VariantPattern,
)
from emobench.core.outcomes import Group

GROUP = Group("retail", "tool-calling", "a")
OTHER = Group("retail", "tool-calling", "b")


def conversation(steps: int, first_write: int | None = None, words: str = "hello") -> Summary:
    found = Features(
        steps=steps,
        user_messages=1,
        user_words=1.0,
        assistant_messages=1,
        assistant_words=1.0,
        tool_calls=0,
        write_calls=0,
        tool_errors=0,
        unknown_tools=0,
        repeated_calls=0,
        wrote=first_write is not None,
        first_write_step=first_write,
        apologies=0,
        refusals=0,
        transferred=False,
    )
    return Summary(found, None, Counter(words.split()))


def pattern(table: ConversationTable, key: str, variant: str) -> VariantPattern:
    return next(p for p in table.patterns if (p.pattern.key, p.variant) == (key, variant))


def test_differences_are_paired_by_task_with_a_t_interval() -> None:
    draw = np.random.default_rng(5)
    tally = Tally()
    steps: dict[str, list[list[int]]] = {"control": [], "anger": []}
    for task in range(12):
        for variant, extra in (("control", 0), ("anger", 2)):
            trials = 1 + task % 3  # unequal numbers of trials
            values = [int(10 + extra + task + draw.integers(0, 6)) for _ in range(trials)]
            steps[variant].append(values)
            for value in values:
                tally.add(GROUP, variant, task, conversation(value))
    found = pattern(tally.build_table(["control", "anger"], {}), "steps", "anger")
    means = {name: np.array([np.mean(each) for each in steps[name]]) for name in steps}
    gaps = means["anger"] - means["control"]
    assert found.mean == pytest.approx(means["anger"].mean())
    assert found.difference is not None
    assert found.difference.interval is not None
    assert found.difference.value == pytest.approx(gaps.mean())
    expected = stats.t.interval(0.95, 11, gaps.mean(), stats.sem(gaps))
    assert (found.difference.interval.low, found.difference.interval.high) == pytest.approx(
        expected
    )
    assert found.difference.label == (
        "difference in assistant's steps, anger minus control, 12 tasks, "
        "95 % interval clustered by task"
    )
    assert "Benjamini-Hochberg" in found.difference.adjustment


def test_a_task_of_several_groups_counts_once() -> None:
    tally = Tally()
    for task, (one, other) in enumerate([(1, 3), (5, 9)]):
        for group, gap in ((GROUP, one), (OTHER, other)):
            tally.add(group, "control", task, conversation(10))
            tally.add(group, "anger", task, conversation(10 + gap))
    found = pattern(tally.build_table(["control", "anger"], {}), "steps", "anger")
    assert found.difference is not None
    assert (found.tasks, found.difference.tasks, found.difference.value) == (2, 2, 4.5)


def test_an_undefined_value_is_left_out_and_not_zero() -> None:
    tally = Tally()
    tally.add(GROUP, "control", 0, conversation(9, first_write=4))
    tally.add(GROUP, "control", 1, conversation(9, first_write=6))
    tally.add(GROUP, "anger", 0, conversation(9, first_write=8))
    tally.add(GROUP, "anger", 1, conversation(9))
    table = tally.build_table(["control", "anger"], {})
    found = pattern(table, "first_write_step", "anger")
    assert (found.mean, found.tasks, found.conversations) == (8, 1, 1)
    assert found.difference is not None
    assert (found.difference.value, found.difference.left_out) == (4, 1)
    wrote = pattern(table, "wrote", "anger")
    assert (wrote.mean, wrote.conversations, wrote.events) == (0.5, 2, 1)


def test_infrastructure_errors_are_missing_and_counted() -> None:
    tally = Tally()
    lost = Fault("infrastructure", (Finding("infrastructure", "no answer from a server", ""),))
    tally.add(GROUP, "control", 0, conversation(3))
    tally.add(GROUP, "control", 1, Summary(None, lost, Counter()))
    table = tally.build_table(["control", "anger"], {})
    assert (table.conversations["control"], table.missing["control"]) == (1, 1)
    assert pattern(table, "steps", "control").conversations == 1
    faults = table.faults[0]
    assert (faults.unsolved, faults.conversations, faults.parties["infrastructure"]) == (0, 2, 1)
    assert pattern(table, "steps", "anger").mean is None


def test_words_of_a_variant_and_those_of_its_prompt() -> None:
    tally = Tally()
    for task in range(10):
        tally.add(GROUP, "control", task, conversation(1, words="please help me now"))
        tally.add(GROUP, "anger", task, conversation(1, words="furious furious help me now"))
    texts = {"control": "", "anger": "You are furious with me.", "placebo": "You write to me."}
    (words,) = tally.build_table(["control", "anger"], texts).words
    assert words.differences[0].word == "furious"
    assert words.differences[-1].word == "please"
    assert words.in_prompt == {"are", "furious", "with"}


def test_without_control_there_is_no_difference() -> None:
    tally = Tally()
    tally.add(GROUP, "anger", 0, conversation(1))
    table = tally.build_table(["anger"], {})
    assert all(each.difference is None for each in table.patterns)
    assert table.words == ()


def test_a_pattern_of_few_conversations_is_rare() -> None:
    tally = Tally()
    for task in range(8):
        tally.add(GROUP, "control", task, conversation(10))
    found = pattern(tally.build_table(["control"], {}), "steps", "control")
    assert (found.events, found.is_rare) == (8, False)
    rare = [events for events in range(9) if replace(found, events=events).is_rare]
    assert rare == [1, 2, 3, 4]
