"""A run directory of made-up results, as large as asked: the lines that runs write, with
conversations of a few messages.

Tasks differ in difficulty and variants in effect, so that the statistics have something to find.
"""

from __future__ import annotations

import json
import random
from hashlib import sha256
from pathlib import Path
from typing import Any

from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell

SWEEP = """
name: {name}
engine: scripted
matrix:
  env: retail
  agent_strategy: tool-calling
  variant: [control, placebo, frustration, anxiety, anger]
assistants: {assistants}
trials: {trials}
"""
EFFECT = {"control": 0.0, "placebo": 0.0, "frustration": -0.06, "anxiety": -0.02, "anger": -0.09}
ASSISTANTS = [f"lab/model-{letter}" for letter in "abcde"]
MISSING = 0.003
"""Share of episodes that the infrastructure lost."""


def make_run(folder: Path, trials: int, name: str = "synthetic") -> tuple[RunDir, int]:
    """Write `folder` as a run of 5 assistants, 5 variants, 115 tasks and `trials` trials.

    Returns it and how many episodes it has.
    """
    from emobench.core.plan import save_plan
    from emobench.runs.planning import read_inputs

    folder.mkdir(parents=True)
    file = folder / "sweep.yaml"
    file.write_text(SWEEP.format(name=name, assistants=ASSISTANTS, trials=trials))
    inputs = read_inputs(file, run_dir=folder)
    run_dir, plan = inputs.run_dir, inputs.plan()
    save_plan(run_dir, plan)
    for cell in plan.cells:
        paths = run_dir.cell(cell.number)
        paths.folder.mkdir(parents=True)
        paths.episodes.write_text("".join(_lines(plan, cell)), encoding="ascii")
    return run_dir, sum(len(cell.tasks) for cell in plan.cells)


def _lines(plan: Plan, cell: Cell) -> list[str]:
    draw = random.Random(f"{cell.key}").random
    ability = 0.65 - 0.08 * list(plan.sweep.assistants).index(cell.assistant)
    level = ability + EFFECT[cell.variant]
    head, tail = _template(plan, cell)
    lines = []
    for task in cell.tasks:
        solved = draw() < level + 0.3 * ((task * 37) % 115 / 115 - 0.5)
        outcome, reward = ("solved", "1.0") if solved else ("failed", "0.0")
        if draw() < MISSING:
            outcome, reward = "infra_error", "null"
        episode = sha256(f"{cell.key} {task}".encode()).hexdigest()
        lines.append(
            f'{{"schema":1,"episode":"{episode}","task_id":{task},"reward":{reward},'
            f'"outcome":"{outcome}","user_prompt_sha256":"{_prompt(cell.variant, task)}",'
            f"{head}{task}{tail}\n"
        )
    return lines


def _template(plan: Plan, cell: Cell) -> tuple[str, str]:
    """The rest of a line, before and after the task's number in what the user says."""
    record: dict[str, Any] = {
        "cell": cell.number,
        "env": cell.env,
        "agent_strategy": cell.agent_strategy,
        "variant": cell.variant,
        "assistant": cell.assistant,
        "trial": cell.trial,
        "attempt": 1,
        "info": {},
        "traj": _conversation(cell.variant),
        "error": None,
        "started": f"2026-11-20T{cell.trial % 24:02}:{cell.number % 60:02}:00+00:00",
        "wall_s": 12.5,
        "steps": 3,
        "turns": 2,
        "tool_calls": 1,
        "cost": None,
        "seed": 10,
        "calls": [
            {
                "role": role,
                "latency_s": 0.2,
                "prompt_tokens": 900,
                "completion_tokens": 40,
                "incarnation": f"{role}{cell.trial % 4}",
            }
            for role in ("user", "assistant")
        ],
        "variant_sha256": plan.sweep.variants[cell.variant].sha256,
        "benchmark": dict(zip(("package", "version"), plan.benchmark.split(" ", 1), strict=True)),
        "emobench": plan.emobench,
    }
    head, tail = json.dumps(record, separators=(",", ":")).split("TASK")
    return head[1:], tail


def _conversation(variant: str) -> list[dict[str, Any]]:
    words = "!!! I have waited long enough." if variant == "anger" else ", please."
    call = {"name": "get_order_details", "arguments": '{"order_id": "#W1"}'}
    return [
        {"role": "system", "content": "# Retail agent policy"},
        {"role": "user", "content": f"Exchange two items of order TASK{words}"},
        {"role": "assistant", "content": "May I have your name and zip code first?"},
        {"role": "user", "content": "Yusuf Rossi, 19122."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": call}],
        },
        {"role": "tool", "name": "get_order_details", "content": '{"status": "delivered"}'},
        {"role": "assistant", "content": "Both items will be exchanged."},
        {"role": "user", "content": "Thank you. ###STOP###"},
    ]


def _prompt(variant: str, task: int) -> str:
    return sha256(f"{variant} {task}".encode()).hexdigest()
