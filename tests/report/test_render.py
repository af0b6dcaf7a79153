"""The report as a file: what it says, for whole runs and for runs that have hardly begun."""

from __future__ import annotations

import base64
import csv
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

from emobench.cli.results_table import build_results
from emobench.cli.terminal import render_plain
from emobench.core.models import OpenAIModel, VllmModel
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.report.blocks import Table, list_blocks
from emobench.report.export import export
from emobench.report.render import build_report, build_sections
from emobench.report.study import build_study
from tests.support.runs import append, episode, fill, make_run, page_text, summarise

NOTICE = "Scripted models: this report tests the pipeline; it is no finding about any model."


def library(run_dir: RunDir) -> tuple[dict[str, Any], list[Any]]:
    """The index and the decoded chunks."""
    page = build_report(run_dir).read_text(encoding="utf-8")
    index = re.search(r'<script type="application/json" id="index">(.*?)</script>', page)
    assert index is not None
    chunks = re.findall(r'data-encoding="deflate\+base64">(.*?)</script>', page)
    return json.loads(index[1]), [json.loads(zlib.decompress(base64.b64decode(c))) for c in chunks]


def test_a_run_that_has_just_begun_has_a_report(tmp_path: Path) -> None:
    text = page_text(make_run(tmp_path / "fresh"))
    assert "No conversation has a result yet; 48 are planned." in text
    assert "no result yet" in text
    assert "missing 8" in text


def test_a_whole_run(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "whole", description="A study.")
    fill(run_dir, load_plan(run_dir).cells)
    text = page_text(run_dir)
    assert NOTICE in text
    assert "48 of 48 planned conversations have a result." in text
    assert "Mean reward with control is" in text
    assert "Not complete" not in text
    for label in ("A study.", "tau_trait 0.1.1", "sweeps/whole.yaml", "6 tasks \u00d7 2 trials"):
        assert label in text
    assert "somebody" not in text
    index, chunks = library(run_dir)
    assert len(index["texts"]) == sum(map(len, chunks)) == 48
    assert len(index["systems"]) == 1
    assert not list(tmp_path.glob("whole/.report*"))


def test_numbers_of_the_table(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "n", variants=("frustration", "control"), tasks=2, trials=2)
    outcomes = {
        ("control", 1): ("solved", "solved"),
        ("control", 2): ("solved", "failed"),
        ("frustration", 1): ("agent_error", "infra_error"),
        ("frustration", 2): ("solved", "max_steps"),
    }
    for cell in load_plan(run_dir).cells:
        ended = outcomes[cell.variant, cell.trial]
        append(run_dir, cell, [episode(cell, task, ended[task]) for task in (0, 1)])
    lines = render_plain(*build_results(run_dir)).splitlines()
    assert lines[0].split()[:5] == ["variant", "episodes", "reward", "pass^1", "pass^2"]
    assert lines[1].split() == ["control", "4/4", "0.75", "0.75", "0.50", "0"]
    # Task 0: 1 -> 0.5; task 1: 0.5 -> 0 with one trial missing.
    assert lines[2].split()[:6] == ["frustration", "3/4", "0.25", "0.25", "0.00", "\u22120.50"]
    assert lines[2].split()[-1] == "1"
    # Two tasks can show nothing, and no judge was asked.
    assert lines[-1].startswith("gates: fails ")
    assert "power" in lines[-1]
    assert lines[-1].endswith("not checked: manipulation (frustration)")
    text = page_text(run_dir)
    # One of two tasks has two trials that count.
    assert "frustration \u2020 3 of 4 1 0.25" in text
    assert "0.00 \u2020 1 of 2 tasks" in text


def test_empty_replies_and_reasoning_taken_out_stand_in_the_report(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "odd", variants=("frustration", "control"), tasks=1, trials=1)
    for cell in load_plan(run_dir).cells:
        line = episode(cell, 0)
        if cell.variant == "frustration":
            line["calls"][0] |= {"think": ["complete"]}
            line["calls"] += [{"role": "assistant", "think": ["unterminated"], "empty": True}] * 2
        append(run_dir, cell, [line])
    (table,) = [
        block
        for block in list_blocks(build_sections(build_study(run_dir)))
        if isinstance(block, Table) and block.name == "replies"
    ]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["frustration", "1", "1", "0", "2", "2"]
    ]
    assert table.records[0]["assistant_empty"] == 2
    assert "User's with reasoning" in page_text(run_dir)


def test_numbers_on_few_failures_are_marked(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "few", variants=("control", "anger"), tasks=20, trials=2)
    failing = {"control": 9, "anger": 10}
    for cell in load_plan(run_dir).cells:
        failed = failing[cell.variant] if cell.trial == 1 else 0
        outcomes = ["failed"] * failed + ["solved"] * (20 - failed)
        append(run_dir, cell, [episode(cell, task, each) for task, each in enumerate(outcomes)])
    tables = {
        block.name: {row[0].text: row for row in block.rows}
        for block in list_blocks(build_sections(build_study(run_dir)))
        if isinstance(block, Table)
    }
    marks = {
        name: {
            variant: [cell.mark for cell in tables[name][variant] if cell.mark]
            for variant in failing
        }
        for name in ("outcomes", "pass-k")
    }
    # Of the outcomes both its failures and its successes, which are the others; pass^1 and pass^2.
    assert marks == {
        "outcomes": {"control": ["\u2020"] * 2, "anger": []},
        "pass-k": {"control": ["\u2020"] * 2, "anger": []},
    }


def test_real_models_get_no_notice_and_no_key_gets_in(tmp_path: Path) -> None:
    key = "k-3f9c0a7d1b2e4455"
    run_dir = make_run(
        tmp_path / "real",
        user=OpenAIModel(model="gpt-x", base_url=f"https://me:{key}@host.example/v1?key={key}"),
        assistants={
            "qwen": VllmModel(
                model="Qwen/Qwen3-4B", extra_args=("--api-key", key, f"--hf-token={key}")
            )
        },
        tasks=1,
        trials=1,
    )
    run_dir.endpoints.mkdir()
    run_dir.api_key.write_text(key + "\n", encoding="utf-8")
    cells = load_plan(run_dir).cells
    refused = {"type": "AuthenticationError", "message": f"401 for Bearer {key}"}
    append(run_dir, cells[0], [episode(cells[0], 0, "infra_error", error=refused)])
    summarise(run_dir, cells[0], "failed", exit_reason="error", message=f"key {key} was refused")
    text = page_text(run_dir)
    assert NOTICE not in text
    assert "gpt-x, engine openai, base_url https://host.example/v1" in text
    assert "was refused" in text
    assert key not in run_dir.report.read_text(encoding="utf-8")
    _, chunks = library(run_dir)
    assert "401 for Bearer" in chunks[0][0]["error"]
    assert key not in json.dumps(chunks)


def test_what_is_wrong_with_the_data_stands_on_top(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "odd", tasks=2, trials=1)
    cell = load_plan(run_dir).cells[0]
    other = {"package": "tau_bench", "version": "9"}
    line = episode(cell, 0, benchmark=other, variant_sha256="0" * 64, emobench="0.0.9")
    append(run_dir, cell, [line, line])
    with run_dir.cell(0).episodes.open("a") as stream:
        stream.write("garbage\n")
    text = page_text(run_dir)
    assert "Left out: 1 damaged line, 1 repeated result and 1 conversation of another" in text
    assert "Mixed prompts" in text
    assert "another text of control" in text
    assert "Mixed benchmarks" in text
    assert "0.1.0; conversations ran with 0.0.9" in text


@pytest.mark.parametrize("variants", [("frustration",), ("frustration", "anxiety")])
def test_without_control_nothing_is_compared(tmp_path: Path, variants: tuple[str, ...]) -> None:
    run_dir = make_run(tmp_path / "alone", variants=variants, tasks=2, trials=1)
    fill(run_dir, load_plan(run_dir).cells)
    text = page_text(run_dir)
    assert "There is no control here, so no variant can be compared with it." in text
    assert "Nothing is compared with control here." in text
    assert "Difference in mean reward, variant minus" not in text


def test_several_settings_are_shown_together_and_apart(tmp_path: Path) -> None:
    run_dir = make_run(
        tmp_path / "many", envs=("retail", "airline"), strategies=("react", "act"), trials=1
    )
    fill(run_dir, load_plan(run_dir).cells)
    text = page_text(run_dir)
    assert "Over all 4 groups together, each task once, mean reward against control (Holm" in text
    assert "Of 12 effects in 4 groups" in text
    assert "comparisons (" in text and "Selected as the lowest of 12" in text
    assert "The lowest is" not in text
    assert "Figure 1. Difference in mean reward, variant minus control, in every" in text
    for title in ("airline / scripted / act", "retail / scripted / react"):
        assert f"Mean reward by variant, {title}, 6 tasks" in text


def test_the_first_screen_says_what_a_null_excludes_and_names_a_longer_prompt(
    tmp_path: Path,
) -> None:
    run_dir = make_run(
        tmp_path / "null", variants=("control", "placebo", "anger"), tasks=8, trials=2
    )
    for cell in load_plan(run_dir).cells:
        ended = ["failed" if (task + cell.number) % 4 == 0 else "solved" for task in cell.tasks]
        append(run_dir, cell, [episode(cell, task, ended[task]) for task in cell.tasks])
    text = page_text(run_dir)
    assert "No difference was shown" not in text
    assert "With anger (" in text and "it is compatible with drops up to" in text
    assert "Not told apart from a longer prompt without emotion: anger (" in text
    terminal = render_plain(*build_results(run_dir))
    assert "anger: compatible with drops up to" in terminal
    assert "difference in pass^2, anger minus control: " in terminal
    export(build_study(run_dir), tmp_path / "export")
    rows = {
        row["variant"]: row
        for row in csv.DictReader((tmp_path / "export/tables/decisions.csv").open())
    }
    assert [row["statement"] for row in rows.values()] == ["compatible", "compatible"]
    passes = list(csv.DictReader((tmp_path / "export/tables/pass-k-differences.csv").open()))
    assert [(row["variant"], row["pass_k"], row["tasks"]) for row in passes] == [
        ("placebo", "pass^2", "8"),
        ("anger", "pass^2", "8"),
    ]
    assert all(row["difference"] and row["p_adjusted"] for row in passes)
    assert rows["anger"]["adjustment"] == "Holm over 1 variant"
    assert rows["anger"]["over_placebo_p_adjusted"] and not rows["placebo"]["over_placebo"]


def test_transcripts_of_any_shape_are_embedded(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "shapes", variants=("control",), tasks=4, trials=1)
    cell = load_plan(run_dir).cells[0]
    traj = [
        "no message",
        {"role": "user", "content": [{"type": "text", "text": "parts"}]},
        {"role": None, "content": None},
        {"role": "assistant", "content": "\ud800 lone", "tool_calls": ["odd", {"function": 3}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
    ]
    append(run_dir, cell, [episode(cell, 0, traj=traj, info=None, calls=None)])
    append(run_dir, cell, [episode(cell, 1, traj=None, info="text"), episode(cell, 2, traj=[])])
    _, chunks = library(run_dir)
    assert chunks[0][0]["events"] == [
        ["o", "other", "no message"],
        ["u", "parts"],
        ["o", "other", ""],
        ["t", "", "", None, "", "\ud800 lone", 1],
        ["t", "f", '{"a": 1}', None, "w", "", 2],
    ]
    assert chunks[0][1]["events"] == []
