"""`emobench power`, and the lines of it that `emobench sweep` prints before it submits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from emobench.analysis.planned_power import assess_planned_power
from emobench.analysis.stats.power import judge_power
from emobench.cli.main import main
from emobench.cli.power import summarise
from emobench.config.expand import expand
from emobench.config.load import load_sweep
from emobench.core.plan import load_plan
from tests.support.runs import fill, make_run

SWEEP = """\
engine: scripted
matrix: {env: [retail, airline], variant: [control, anger, anxiety, confusion, frustration]}
trials: 4
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(SWEEP)
    return path


def test_a_sweep_is_told_what_it_lacks(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["power", str(file)]) == 1
    shown = capsys.readouterr().out
    assert "retail, 115 tasks x 4 trials, 4 variants against control" in shown
    assert "smallest drop       8.2 points\n" in shown
    assert "smallest drop       14.1 points: underpowered for 10 points" in shown
    assert "needs 9 trials" in shown
    assert "published gpt-4o" in shown


def test_the_drop_of_interest_is_that_of_the_file_or_of_the_command(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["power", str(file), "--drop", "15"]) == 0
    assert "underpowered" not in capsys.readouterr().out
    file.write_text(SWEEP + "gates: {smallest_effect: 0.2}\n")
    assert main(["power", str(file)]) == 0
    capsys.readouterr()
    assert main(["power", str(file), "--drop", "5", "--json"]) == 1
    verdict = json.loads(capsys.readouterr().out)
    assert (verdict["wanted"], verdict["wanted_from"]) == (0.05, "command")
    assert all({"trials_needed", "tasks_needed"} <= set(each) for each in verdict["designs"])
    assert [each["enough"] for each in verdict["designs"]] == [False, False]


def test_what_sweep_prints_before_it_submits(file: Path) -> None:
    sweep = load_sweep(file)
    good, short = summarise(judge_power(expand(sweep), sweep.gates.smallest_effect))
    assert good == (
        "power       smallest drop found 4 times in 5: 8.2 points in retail (115 tasks x 4 trials, "
        "4 variants); 14.1 points in airline (50 tasks x 4 trials, 4 variants)"
    )
    assert short.strip() == (
        "underpowered for a drop of 10 points (the default of gates.smallest_effect): "
        "airline needs 9 trials"
    )
    file.write_text(SWEEP + "gates: {smallest_effect: 0.1}\n")
    _, declared = summarise(assess_planned_power(file))
    assert "10 points (gates.smallest_effect): airline" in declared
    assert len(summarise(judge_power(expand(sweep), 0.15))) == 1
    file.write_text(SWEEP.replace("[control, anger, anxiety, confusion, frustration]", "[anger]"))
    (line,) = summarise(judge_power(expand(load_sweep(file)), 0.1))
    assert "nothing is compared with control" in line


def test_a_few_tasks_need_more_tasks_and_not_a_hundred_trials(file: Path) -> None:
    file.write_text(SWEEP + "tasks: 0-4\n")
    _, short = summarise(judge_power(expand(load_sweep(file)), 0.1))
    assert "retail needs 80 tasks" in short
    assert "airline needs all 50 tasks x 9 trials" in short


def test_a_pilot_says_how_hard_the_tasks_are(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "pilot", variants=("control", "anxiety"), tasks=12, trials=3)
    assert main(["power", str(run.path)]) == 2
    assert "no scored episode of control" in capsys.readouterr().err
    fill(run, load_plan(run).cells)
    main(["power", str(run.path)])
    assert "measured: control, 12 tasks x 3 trials" in capsys.readouterr().out
    main(["power", str(file), "--pilot", str(run.path)])
    retail, airline = capsys.readouterr().out.split("airline, 50 tasks")
    assert "measured: control, 12 tasks x 3 trials" in retail
    assert "published gpt-4o" in airline


def test_it_loads_numpy_alone(file: Path) -> None:
    code = (
        "import sys; from emobench.cli.main import main; "
        f"main(['power', {str(file)!r}]); "
        "print([n for n in ('scipy', 'pandas', 'statsmodels') if n in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("option", [["--drop", "0"], ["--alpha", "1"], ["--power", "0.5"]])
def test_impossible_options_are_refused(file: Path, option: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["power", str(file), *option])
    assert stop.value.code == 2
