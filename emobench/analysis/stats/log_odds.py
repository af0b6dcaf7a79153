"""Words that set one group of texts apart from another: log-odds ratios with a Dirichlet prior.

Monroe, Colaresi and Quinn, "Fightin' Words: Lexical Feature Selection and Evaluation for
Identifying the Content of Political Conflict", Political Analysis 16(4), 2008. With y counts of a
word among n in group i or j, and a prior of a for the word and A for all words:

    delta = log((y_i + a) / (n_i + A - y_i - a)) - log((y_j + a) / (n_j + A - y_j - a))
    z = delta / sqrt(1 / (y_i + a) + 1 / (y_j + a))

The prior (a = A times the word's share in all groups together) keeps rare words from leading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, sqrt

PRIOR_WORDS = 500.0
"""A, in words: about what one user says in a few conversations."""
MIN_COUNT = 5
MIN_CONVERSATIONS = 3


@dataclass(frozen=True)
class WordCounts:
    """How often each word was said, and in how many conversations."""

    counts: Mapping[str, int]
    conversations: Mapping[str, int]


@dataclass(frozen=True)
class WordDifference:
    """One word in a group against a reference."""

    word: str
    log_odds: float
    """Above 0: more frequent in the group. Natural logarithm."""
    z: float
    """`log_odds` over its approximate standard error, which takes words as independent."""
    count: int
    reference_count: int
    conversations: int
    """Of the group and the reference together that hold the word."""


def compare_words(
    group: WordCounts,
    reference: WordCounts,
    background: Mapping[str, int],
    *,
    prior_words: float = PRIOR_WORDS,
    min_count: int = MIN_COUNT,
    min_conversations: int = MIN_CONVERSATIONS,
) -> list[WordDifference]:
    """Return words by z, the group's own first. The prior of a word is its share in `background`
    (which holds the counts of all groups together, so every word of both) times `prior_words`.

    Left out are words said fewer than `min_count` times in both together, or in fewer than
    `min_conversations` conversations. Raises ValueError where a word is not in the background.
    """
    total = sum(background.values())
    size = sum(group.counts.values()) + prior_words
    reference_size = sum(reference.counts.values()) + prior_words
    found = []
    for word in {**group.counts, **reference.counts}:
        count, other = group.counts.get(word, 0), reference.counts.get(word, 0)
        if count + other < min_count:
            continue
        held = group.conversations.get(word, 0) + reference.conversations.get(word, 0)
        if held < min_conversations:
            continue
        known = background.get(word, 0)
        if known < count + other:
            raise ValueError(f"the background knows {known} of {count + other} times {word!r}")
        prior = prior_words * known / total
        a, b = count + prior, other + prior
        if a >= size or b >= reference_size:
            continue  # a vocabulary of one word has no odds
        delta = log(a / (size - a)) - log(b / (reference_size - b))
        z = delta / sqrt(1 / a + 1 / b)
        found.append(WordDifference(word, delta, z, count, other, held))
    return sorted(found, key=lambda each: (-each.z, each.word))
