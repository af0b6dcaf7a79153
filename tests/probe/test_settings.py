"""`probe` in a sweep file, and judgements that no server can be made to show in a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from emobench.config.identity import collect_cell_content
from emobench.config.reference import build_sweep_file_schema
from emobench.core.errors import InvalidInput
from emobench.probe.report import Call, judge_speed
from tests.support.sweep_files import load

STUDY = "engine: scripted\nmatrix: {env: retail, variant: control}\ntrials: 1\ntasks: 0\n"


@pytest.mark.parametrize(
    ("line", "mode"),
    [
        ("", "enforce"),
        ("probe: enforce", "enforce"),
        ("probe: warn", "warn"),
        ("probe: false", "off"),
        ('probe: "off"', "off"),
    ],
)
def test_modes(tmp_path: Path, line: str, mode: str) -> None:
    sweep = load(tmp_path, STUDY + line)
    assert sweep.probe == mode
    assert mode in build_sweep_file_schema()["properties"]["probe"]["enum"]


@pytest.mark.parametrize("value", ["true", "0", "always", "off"])
def test_other_values_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(InvalidInput, match="probe"):
        load(tmp_path, f"{STUDY}probe: {value}")


def test_the_mode_is_no_part_of_an_episodes_identity(tmp_path: Path) -> None:
    from emobench.config.expand import expand

    contents = []
    for mode in ("warn", "enforce"):
        sweep = load(tmp_path, f"{STUDY}probe: {mode}")
        contents.append(collect_cell_content(sweep, expand(sweep)[0], "b"))
    assert contents[0] == contents[1]


def test_speed() -> None:
    fast = [Call("a", 0.2, 4000, 50), Call("b", 0.3, None, None)]
    check = judge_speed(fast)
    assert check.seen == "250 ms a call, about 250 tokens a second, prompts of up to 4,000 tokens"
    assert check.result == "ok"
    slow = judge_speed([Call("a", 31.0, None, None)])
    assert (slow.result, slow.seen) == ("warning", "31.0 s a call")
    assert "about 9 minutes" in slow.meaning
    assert judge_speed([]).result == "skipped"
