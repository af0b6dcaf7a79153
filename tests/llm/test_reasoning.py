"""Reasoning is taken out in all its forms, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emobench.llm.reasoning import sanitize

PLAIN = st.text(alphabet="ab #\n.", max_size=20).map(str.strip)


@pytest.mark.parametrize(
    ("text", "clean", "forms"),
    [
        ("Hello.", "Hello.", ()),
        ("I think so.", "I think so.", ()),
        ("  spaces stay without markup ", "  spaces stay without markup ", ()),
        ("<think>hm</think>\n\nYes.", "Yes.", ("complete",)),
        ("<THINK>hm</THINK>Yes.", "Yes.", ("complete",)),
        ("<thinking>a</thinking>b<think>c</think>d", "bd", ("complete",)),
        ("hm, so\n</think>\nYes.", "Yes.", ("closing_only",)),
        ("Yes. <think>and now", "Yes.", ("unterminated",)),
        ("a</think>b<think>c</think>d<think>e", "bd", ("complete", "closing_only", "unterminated")),
        ("<think>all of it", "", ("unterminated",)),
        ("<think></think>", "", ("complete",)),
        ("<think>a <think>b</think> c</think>d", "d", ("complete", "closing_only")),
    ],
)
def test_forms(text: str, clean: str, forms: tuple[str, ...]) -> None:
    result = sanitize(text)
    assert (result.text, result.forms) == (clean, forms)
    assert result.emptied is (clean == "" and bool(forms))


@given(PLAIN, PLAIN, PLAIN)
def test_what_is_said_around_a_block_stays(before: str, inside: str, after: str) -> None:
    result = sanitize(f"{before}<think>{inside}</think>{after}")
    assert result.text == (before + after).strip()


@given(st.lists(st.sampled_from(["<think>", "</think>", "a", " ", "<Thinking>", "</thinking>"])))
def test_no_markup_is_left(parts: list[str]) -> None:
    result = sanitize("".join(parts))
    assert "<think" not in result.text.lower()
    assert "</think" not in result.text.lower()
    assert sanitize(result.text).forms == ()
