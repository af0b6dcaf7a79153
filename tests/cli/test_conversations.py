"""`emobench conversations`: over a real scripted sweep, and over hostile conversations."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from emobench.cli.terminal import measure_width
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from tests.support.commands import as_process, emobench
from tests.support.runs import append, episode, make_run
from tests.support.studies import SWEEP, Study
from tests.support.terminal import on_terminal


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real sweep: control solves every task, anger none."""
    folder = tmp_path_factory.mktemp("study")
    text = SWEEP.format(variants="[control, anger]", tasks="0-4", seed=1, latency=0)
    (folder / "tiny.yaml").write_text(text)
    done = Study(folder).submit("--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def show(study: Path, *options: str) -> str:
    result = emobench(study, "conversations", "runs/tiny", *options)
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout
    return result.stdout


def test_one_conversation_with_what_the_task_wanted(study: Path) -> None:
    text = show(study, "--task", "0", "--variant", "control")
    assert text.startswith(
        "retail task 0, control, trial 1, scripted, tool-calling\nsolved, reward"
    )
    assert "done       exchange_delivered_order_items(" in text
    assert '\nwrite      exchange_delivered_order_items(order_id="#W2378156"' in text
    assert 'call       get_order_details("#W2378156") -> {"order_id"' in text
    assert "user       ###STOP###" in text
    assert all(measure_width(line) <= 100 for line in text.splitlines())
    full = show(study, "--task", "0", "--variant", "control", "--full")
    assert 'get_order_details(order_id="#W2378156")' in full
    assert full.count("\nresult ") == 5
    assert len(full) > 2 * len(text)


def test_a_failed_conversation_says_who_was_at_fault(study: Path) -> None:
    text = show(study, "--task", "0", "--variant", "anger")
    assert "\nfailed, reward 0" in text
    assert "\nfault      agent: " in text or "\nfault      probably agent: " in text
    assert "\nmissing    " in text or "\nunwanted   " in text


@pytest.mark.parametrize("columns", [60, 80, 100, 160])
def test_two_variants_stand_side_by_side(study: Path, columns: int) -> None:
    options = ("conversations", "runs/tiny", "--task", "0", "--variant", "anger,control")
    text = emobench(study, *options, COLUMNS=str(columns)).stdout
    lines = text.splitlines()
    assert all(measure_width(line) <= columns for line in lines)
    sides = [line.split(" | ") for line in lines if " | " in line]
    assert [side.strip() for side in sides[0]] == ["control", "anger"]
    marked = next(side for side in sides if ">> first difference" in side[0])
    assert marked[1].startswith(">> first difference")
    assert "first different tool call" in text
    asked = emobench(
        study, *options[:4], "--variant", "anger", "--side-by-side", COLUMNS=f"{columns}"
    )
    assert asked.stdout == text


def test_many_are_listed_and_one_is_found_by_its_id(study: Path) -> None:
    text = show(study, "--outcome", "failed")
    lines = text.splitlines()
    assert lines[0].split()[:3] == ["episode", "task", "variant"]
    assert [line.split()[1] for line in lines[1:6]] == ["0", "1", "2", "3", "4"]
    assert all("anger" in line and "failed" in line for line in lines[1:6])
    assert lines[-1].startswith("5 conversations; emobench conversations runs/tiny --episode ID")
    one = show(study, "--episode", lines[3].split()[0])
    assert one.startswith("retail task 2, anger, trial 1")
    assert show(study, "--task", "0-1", "--variant", "anger", "--list").count("\n") == 5


def test_the_table_of_patterns(study: Path) -> None:
    text = show(study, "--table")
    assert "Conversations by variant: control 5, anger 5." in text
    assert "step of the first write call" in text
    assert "Words of the user, anger against control" in text
    data = json.loads(show(study, "--table", "--json"))
    steps = {
        each["variant"]: each["mean"]
        for each in data["patterns"]
        if each["pattern"]["key"] == "steps"
    }
    lines = (study / "runs/tiny/cells/0/episodes.jsonl").read_text().splitlines()
    assert steps["control"] == sum(json.loads(line)["steps"] for line in lines) / 5
    faults = {each["variant"]: each for each in data["faults"]}
    assert faults["control"]["unsolved"] == 0
    assert faults["anger"]["unsolved"] == 5
    # The scripted assistant makes the mistakes: no rule may accuse anybody else.
    parties = faults["anger"]["parties"]
    assert parties["agent"] + parties["probably agent"] + parties["undetermined"] == 5
    words = next(each["words"] for each in data["words"] if each["variant"] == "anger")
    assert "furious" in [word["word"] for word in words[:10]]
    assert "anger 5" in show(study, "--table", "--variant", "anger")


def test_machines_get_a_line_a_conversation(study: Path) -> None:
    lines = show(study, "--task", "0", "--json", "--full").splitlines()
    data = [json.loads(line) for line in lines]
    assert [each["variant"] for each in data] == ["control", "anger"]
    assert data[0]["fault"] is None
    assert data[0]["patterns"]["tool_calls"] == 5
    assert data[0]["events"][0]["kind"] == "Message"
    assert data[1]["fault"]["party"] in ("agent", "probably agent")


def test_mistakes_say_what_there_is(study: Path) -> None:
    wrong = emobench(study, "conversations", "runs/tiny", "--task", "12", "--json")
    assert wrong.returncode == 2
    assert wrong.stderr == "emobench: --task: this run has no 12\n  allowed: 0-4\n"
    wrong = emobench(study, "conversations", "runs/tiny", "--variant", "angr", "--outcome", "won")
    assert wrong.returncode == 2
    assert "--variant: this run has no angr\n  allowed: control, anger\n" in wrong.stderr
    assert "did you mean 'anger'?" in wrong.stderr
    assert "--outcome: this run has no won\n  allowed: solved, failed" in wrong.stderr
    assert emobench(study, "conversations", "runs/tiny", "--task", "x").returncode == 2
    backwards = emobench(study, "conversations", "runs/tiny", "--task", "1-0")
    assert "'1-0' runs backwards" in backwards.stderr and backwards.returncode == 2
    alone = emobench(study, "conversations", "runs/tiny", "--variant", "control", "--side-by-side")
    assert alone.returncode == 2
    assert "choose another variant: --variant anger" in alone.stderr
    none = emobench(study, "conversations", "runs/tiny", "--episode", "zzz")
    assert none.returncode == 1
    assert "matches yet" in none.stderr


def test_a_reader_that_leaves_is_no_error(study: Path) -> None:
    command = f"{sys.executable} -m emobench.cli conversations runs/tiny --full | head -1"
    result = subprocess.run(
        ["bash", "-c", command], cwd=study, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\u2028\ud83d end"


@pytest.fixture
def hostile(tmp_path: Path) -> RunDir:
    """A run whose conversation tries to act on the terminal, in every place that is shown."""
    run_dir = make_run(tmp_path / "run", variants=("control", "anxiety"), tasks=1, trials=1)
    for cell in load_plan(run_dir).cells:
        calls = [{"id": HOSTILE, "function": {"name": HOSTILE, "arguments": HOSTILE}}]
        named = [
            {"id": "b", "function": {"name": "modify_x", "arguments": json.dumps({"a": HOSTILE})}}
        ]
        traj = [
            {"role": "user", "content": HOSTILE},
            {"role": "assistant", "content": HOSTILE, "tool_calls": calls},
            {"role": "tool", "tool_call_id": HOSTILE, "content": HOSTILE},
            {"role": "assistant", "content": None, "tool_calls": named},
            {"role": "tool", "tool_call_id": "b", "content": f"Error: {HOSTILE}"},
            {"role": "assistant", "content": f"{cell.variant} {HOSTILE}"},
        ]
        task = {
            "instruction": HOSTILE,
            "actions": [{"name": f"book_{HOSTILE}", "kwargs": {"x": HOSTILE}}],
            "outputs": [HOSTILE],
        }
        line = episode(cell, 0, "agent_error", traj=traj, info={"task": task}, episode=HOSTILE)
        line["error"] = {"type": HOSTILE, "message": HOSTILE}
        append(run_dir, cell, [line])
    return run_dir


@pytest.mark.parametrize("options", [[], ["--full"], ["--list"], ["--variant", "anxiety"]])
def test_a_conversation_cannot_act_on_the_terminal(hostile: RunDir, options: list[str]) -> None:
    result = emobench(hostile.path, "conversations", str(hostile.path), *options)
    assert result.returncode == 0, result.stderr
    assert not set(result.stdout) & set("\x1b\x07\x9b\u202e\u2028\r")
    assert "\\x1b" in result.stdout


def test_a_terminal_that_is_not_utf8(hostile: RunDir) -> None:
    env = {
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "LC_ALL": "C",
        "PYTHONIOENCODING": "ascii",
    }
    line = hostile.cell(0).episodes
    line.write_text(line.read_text().replace(" end", " \\u65e5"))
    result = as_process(
        hostile.path, "conversations", str(hostile.path), "--variant", "control", **env
    )
    assert result.returncode == 0, result.stderr
    assert "\\u65e5" in result.stdout


def test_colour_on_a_terminal_only_and_not_where_it_is_refused(study: Path) -> None:
    options = ("conversations", "runs/tiny", "--task", "0", "--variant", "control")
    coloured = on_terminal(study, *options)
    assert "\x1b[1;36muser" in coloured
    plain = on_terminal(study, *options, NO_COLOR="1")
    assert "\x1b" not in plain
    assert max(map(measure_width, plain.splitlines())) in range(60, 81)
    assert "\x1b" not in on_terminal(study, *options, TERM="dumb")
