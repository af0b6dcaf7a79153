"""Run directories without a run: a real plan, and episodes as runs write them."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from html import unescape
from pathlib import Path
from typing import Any

from emobench.config.identity import collect_cell_content, hash_content
from emobench.core.files import write_json
from emobench.core.models import RoleModel, ScriptedModel
from emobench.core.plan import load_plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.report.render import build_report
from emobench.tables.collection import Request, collect_into
from tests.support.plans import make_plan, variant

VARIANTS = ("control", "placebo", "frustration", "anxiety")
OPENINGS = {
    "control": "Hi, I would like to exchange two items of order #W{task:07d}.",
    "placebo": "Hello. It is about order #W{task:07d}: two items should be exchanged.",
    "frustration": "The third time I write! Order #W{task:07d}, two items to exchange. Now.",
    "anxiety": "Hello, sorry to bother you. I am worried something goes wrong with #W{task:07d}.",
}
WIKI = "# Retail agent policy\n\n" + "- Authenticate the user before anything else.\n" * 40


def make_run(
    path: Path,
    *,
    user: RoleModel | None = None,
    assistants: Mapping[str, RoleModel] | None = None,
    variants: Sequence[str] = VARIANTS,
    tasks: int = 6,
    **options: Any,
) -> RunDir:
    """A run directory with a plan (`options`: make_plan's) and no episode yet."""
    plan = make_plan(
        user=user or ScriptedModel(),
        assistants=assistants or {"scripted": ScriptedModel()},
        name=path.name,
        variants=variants,
        tasks=tasks,
        **options,
    )
    path.mkdir(parents=True)
    run_dir = RunDir(path)
    save_plan(run_dir, plan)
    return run_dir


def fill(run_dir: RunDir, cells: Sequence[Cell], seed: int = 7, messages: int = 12) -> None:
    """A result for every task of `cells`; emotional variants fail more often."""
    chance = {"control": 0.85, "placebo": 0.85, "frustration": 0.55, "anxiety": 0.7}
    for cell in cells:
        draw = random.Random(f"{seed} {cell.key}")
        lines = []
        for task in cell.tasks:
            hard = 0.35 if task % 3 == 2 else 0.0
            solved = draw.random() < chance.get(cell.variant, 0.8) - hard
            other = draw.choice(["failed", "failed", "failed", "agent_error", "max_steps"])
            outcome = "solved" if solved else other
            lines.append(episode(cell, task, outcome, messages=messages))
        append(run_dir, cell, lines)
        summarise(run_dir, cell, "done", finished=len(lines))


def page_text(run_dir: RunDir) -> str:
    """Build the report and return its text, without scripts, style and mark-up."""
    page = build_report(run_dir).read_text(encoding="utf-8")
    body = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def append(run_dir: RunDir, cell: Cell, lines: Sequence[dict[str, Any]]) -> None:
    paths = run_dir.cell(cell.number)
    paths.folder.mkdir(parents=True, exist_ok=True)
    with paths.episodes.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)


def summarise(run_dir: RunDir, cell: Cell, status: str, **extra: Any) -> None:
    finish_cell(run_dir, cell.number, status, title=cell.title, **extra)


def finish_cell(run_dir: RunDir, number: int, status: str = "done", **fields: object) -> None:
    """Write the cell's summary as a run does, and the episodes of one that is done."""
    paths = run_dir.cell(number)
    paths.folder.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {"cell": number, "status": status, "expected": 2, **fields}
    if status == "done" and not paths.episodes.exists():
        cell = load_plan(run_dir).cells[number]
        lines = [episode(cell, task, messages=4) for task in cell.tasks[: summary["expected"]]]
        append(run_dir, cell, lines)
    write_json(paths.summary, {"schema": 1, **summary})


def episode(
    cell: Cell, task: int, outcome: str = "solved", messages: int = 12, **changed: Any
) -> dict[str, Any]:
    """One line of episodes.jsonl."""
    reward = {"solved": 1.0, "infra_error": None}.get(outcome, 0.0)
    identity = hashlib.sha256(f"{cell.key} {task}".encode()).hexdigest()
    error = None
    if outcome in ("infra_error", "agent_error"):
        error = {"type": "APIConnectionError", "message": "connection refused by the server"}
    line: dict[str, Any] = {
        "schema": 1,
        "episode": identity,
        "cell": cell.number,
        "env": cell.env,
        "agent_strategy": cell.agent_strategy,
        "variant": cell.variant,
        "assistant": cell.assistant,
        "trial": cell.trial,
        "task_id": task,
        "attempt": 1,
        "reward": reward,
        "info": {"task": {"instruction": f"You are Yusuf Rossi in 19122. Exchange task {task}."}},
        "traj": conversation(cell, task, messages),
        "outcome": outcome,
        "error": error,
        "started": f"2026-11-20T09:{task % 60:02d}:00+00:00",
        "wall_s": 12.5,
        "steps": messages // 2,
        "seed": 10,
        "calls": [
            {
                "role": role,
                "latency_s": 0.2,
                "prompt_tokens": 900,
                "completion_tokens": 40,
                "finish_reason": "stop",
                "incarnation": f"{role}01",
            }
            for role in ("user", "assistant")
        ],
        "variant_sha256": variant(cell.variant).sha256,
        "user_prompt_sha256": "0" * 64,
        "benchmark": {"package": "tau_trait", "version": "0.1.1"},
        "emobench": "0.1.0",
    }
    line.update(changed)
    return line


def conversation(cell: Cell, task: int, messages: int) -> list[dict[str, Any]]:
    opening = OPENINGS.get(cell.variant, OPENINGS["control"]).format(task=2378156 + task)
    order = json.dumps({"order_id": f"#W{2378156 + task}"})
    items = [{"name": "Mechanical Keyboard", "item_id": "1151293680", "price": 272.33}] * 8
    found = {"order_id": f"#W{2378156 + task}", "user_id": "yusuf_rossi_9620", "items": items}
    turns: list[dict[str, Any]] = [
        {"role": "system", "content": WIKI},
        {"role": "user", "content": opening},
        {
            "role": "assistant",
            "content": "I am happy to help. May I have your name and zip code first?",
        },
        {"role": "user", "content": "Yusuf Rossi, zip code 19122."},
    ]
    while len(turns) < messages - 2:
        call = f"call_{len(turns)}"
        turns += [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": call,
                        "type": "function",
                        "function": {"name": "get_order_details", "arguments": order},
                    }
                ],
            },
            {
                "role": "tool",
                "tool_call_id": call,
                "name": "get_order_details",
                "content": json.dumps(found),
            },
        ]
    return [
        *turns,
        {
            "role": "assistant",
            "content": "I exchanged the keyboard for the one with clicky switches "
            f"and the thermostat for the one that works with Google Home (order {task}).",
        },
        {"role": "user", "content": "Thank you, that is all. ###STOP###"},
    ]


def real_episode(run_dir: RunDir, cell: Cell, task: int, outcome: str, **changed: Any) -> Any:
    plan = load_plan(run_dir)
    prompt = f"{plan.sweep.user_strategy} {cell.env} {cell.variant} {task}"
    line = episode(cell, task, outcome, messages=6, **changed)
    line["episode"] = hash_content(collect_cell_content(plan.sweep, cell, plan.benchmark), task)
    line["user_prompt_sha256"] = hashlib.sha256(prompt.encode()).hexdigest()
    line["variant_sha256"] = plan.sweep.variants[cell.variant].sha256
    return line


def full_run(path: Path, **options: Any) -> RunDir:
    """A run in which every third episode failed and the last task of a cell has no result."""
    run_dir = make_run(path, **{"variants": ("control", "anger"), "tasks": 4, **options})
    for cell in load_plan(run_dir).cells:
        last = len(cell.tasks) - 1
        lines = [
            real_episode(
                run_dir,
                cell,
                task,
                "infra_error"
                if place == last
                else ("failed" if (place + cell.trial) % 3 == 0 else "solved"),
            )
            for place, task in enumerate(cell.tasks)
        ]
        append(run_dir, cell, lines)
    return run_dir


def change_sweep(run_dir: RunDir, **changed: Any) -> None:
    """Make the plan one of another sweep."""
    plan = load_plan(run_dir)
    save_plan(run_dir, plan.model_copy(update={"sweep": plan.sweep.model_copy(update=changed)}))


def change_plan(run_dir: RunDir, **changed: Any) -> None:
    save_plan(run_dir, load_plan(run_dir).model_copy(update=changed))


def rewrite(run_dir: RunDir, cells: Sequence[int], **changed: Any) -> None:
    """Change every record of some cells."""
    for number in cells:
        path = run_dir.cell(number).episodes
        records = [{**json.loads(line), **changed} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))


def collected(folder: Path, *run_dirs: RunDir, **options: Any) -> dict[str, Any]:
    paths = tuple(run_dir.path for run_dir in run_dirs)
    return collect_into(Request(paths, (), None, folder, **options))


def files_in(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}
