"""Text from a model cannot act on a terminal, and fits its columns."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from emobench.cli.terminal import cut, make_table, measure_line, measure_width, render_plain, wrap
from emobench.core.output import flatten, make_visible

hostile = st.text(
    st.one_of(
        st.characters(),
        st.characters(categories=("Cc", "Cf", "Cs", "Zl", "Zp", "Mn")),
        st.sampled_from("\x1b\x9b\x07\r\n\t \u202e\u2066\u200b\ufeff\u65e5\U0001f600"),
    ),
    max_size=80,
)


def test_escape_sequences_are_written_out() -> None:
    assert make_visible("\x1b[2J\x9b1m\u202eabc\r\nd\re") == "\\x1b[2J\\x9b1m\\u202eabc\nd\\x0de"


@given(hostile)
def test_nothing_that_acts_is_left(text: str) -> None:
    shown = make_visible(text)
    assert not {unicodedata.category(char) for char in shown if char != "\n"} & {
        "Cc",
        "Cs",
        "Zl",
        "Zp",
    }
    assert not any(unicodedata.bidirectional(c) in ("RLO", "LRO", "RLE", "RLI") for c in shown)
    assert "\n" not in flatten(text)


@given(hostile, st.integers(4, 60))
def test_wrapped_lines_fit_and_lose_nothing_but_space(text: str, columns: int) -> None:
    shown = make_visible(text)
    lines = wrap(shown, columns)
    assert all(measure_width(line) <= columns for line in lines)
    assert "".join("".join(lines).split()) == "".join(shown.split())


@given(hostile, st.integers(0, 60))
def test_cut_text_fits(text: str, columns: int) -> None:
    assert measure_width(cut(flatten(text), columns)) <= columns


def test_wide_and_combining_characters() -> None:
    assert measure_width("\u65e5\u672ce\u0301") == 5
    assert wrap("\u65e5\u672c\u8a9e\u65e5\u672c", 4) == ["\u65e5\u672c", "\u8a9e\u65e5", "\u672c"]


def test_indented_text_stays_indented() -> None:
    assert wrap("  one two three", 9) == ["  one two", "  three"]


def test_styles_cost_no_columns() -> None:
    assert measure_line((("bold", "a"), ("", " "), ("error", "b"))) == 3


@given(hostile)
def test_a_table_cannot_act_either(text: str) -> None:
    shown = render_plain(make_table(("head", "other"), [(text, 1), (("error", text), 2)]), text)
    assert not {unicodedata.category(char) for char in shown if char != "\n"} & {"Cc", "Cs"}


def test_a_table_is_whole_in_a_pipe_and_folded_in_a_narrow_window() -> None:
    long = "word " * 60
    made = make_table(("variant", "n"), [(long, 5), ("b", 12)])
    assert render_plain(made).splitlines()[1] == f"{long.strip()}   5"
    narrow = render_plain(made, columns=30).splitlines()
    assert max(map(len, narrow)) <= 30
    assert "".join(narrow).count("word") == 60


def test_figures_are_whole_in_any_window() -> None:
    made = make_table(
        ("variant", "reward", "vs control"), [("a long name of a variant", 0.8125, -0.125)]
    )
    for columns in (1, 20, 40, 80):
        shown = render_plain(made, columns=columns)
        assert "0.8125" in shown and "-0.125" in shown
