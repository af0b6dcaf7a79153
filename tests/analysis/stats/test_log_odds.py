"""Words that set groups apart, against the formula written out and against known cases."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from emobench.analysis.stats.log_odds import WordCounts, compare_words

VOCABULARY = [f"w{number}" for number in range(40)]


def counts(draw: random.Random, size: int) -> WordCounts:
    texts = [draw.choices(VOCABULARY, weights=range(1, 41), k=20) for _ in range(size)]
    every = Counter(word for text in texts for word in text)
    return WordCounts(every, Counter(word for text in texts for word in set(text)))


def brute_force(word: str, i: Counter[str], j: Counter[str], rest: Counter[str]) -> float:
    """Monroe et al.: z of one word, from the definition."""
    everything = list((i + j + rest).elements())
    alpha = 500 * everything.count(word) / len(everything)
    n_i, n_j = len(list(i.elements())), len(list(j.elements()))
    omega_i = (i[word] + alpha) / (n_i + 500 - (i[word] + alpha))
    omega_j = (j[word] + alpha) / (n_j + 500 - (j[word] + alpha))
    variance = 1 / (i[word] + alpha) + 1 / (j[word] + alpha)
    return (math.log(omega_i) - math.log(omega_j)) / math.sqrt(variance)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_formula_of_the_paper(seed: int) -> None:
    draw = random.Random(seed)
    group, reference, other = (counts(draw, size) for size in (30, 40, 20))
    i, j, rest = (Counter(dict(each.counts)) for each in (group, reference, other))
    found = compare_words(group, reference, i + j + rest, min_count=0, min_conversations=0)
    assert {each.word for each in found} == set(i) | set(j)
    for each in found:
        assert each.z == pytest.approx(brute_force(each.word, i, j, rest), rel=1e-9, abs=1e-12)
        assert (each.count, each.reference_count) == (i[each.word], j[each.word])
    assert [each.z for each in found] == sorted((each.z for each in found), reverse=True)


def test_swapping_the_groups_turns_the_sign() -> None:
    draw = random.Random(3)
    group, reference = counts(draw, 30), counts(draw, 30)
    background = Counter(dict(group.counts)) + Counter(dict(reference.counts))
    there = {each.word: each.z for each in compare_words(group, reference, background)}
    back = {each.word: each.z for each in compare_words(reference, group, background)}
    assert there.keys() == back.keys()
    assert all(back[word] == pytest.approx(-z) for word, z in there.items())


def test_rare_words_and_words_of_few_conversations_are_left_out() -> None:
    group = WordCounts({"rare": 4, "loud": 40, "both": 30}, {"rare": 4, "loud": 2, "both": 9})
    reference = WordCounts({"both": 30}, {"both": 9})
    background = {"rare": 4, "loud": 40, "both": 60}
    assert [each.word for each in compare_words(group, reference, background)] == ["both"]


def test_the_background_has_to_hold_the_groups() -> None:
    group = WordCounts({"a": 9}, {"a": 9})
    with pytest.raises(ValueError, match="the background knows 3 of 9 times 'a'"):
        compare_words(group, WordCounts({}, {}), {"a": 3, "b": 1})


def test_nothing_said_has_no_words() -> None:
    assert compare_words(WordCounts({}, {}), WordCounts({}, {}), {}) == []
    alone = WordCounts({"a": 9}, {"a": 9})
    assert compare_words(alone, WordCounts({}, {}), {"a": 9}) == []
