"""Runs that a person starts by hand: one cell without a sweep file, or one cell of a sweep."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from emobench.config.load import resolve
from emobench.config.yaml_lines import Document
from emobench.core.cluster import ClusterProfile
from emobench.core.errors import InvalidInput, nearest
from emobench.core.plan import CellBlock, Plan, load_plan, save_plan
from emobench.core.run_dir import RunDir, slug
from emobench.core.sweep import Sweep
from emobench.runs.planning import DEFAULT_MAX_ARRAY_SIZE, make_plan


def find_cell(plan: Plan, arguments: argparse.Namespace) -> int:
    """The number of the sweep's cell with these values; InvalidInput says what there is."""
    missing = [name for name in ("env", "model") if getattr(arguments, name) is None]
    if missing:
        raise InvalidInput(
            f"which cell? give --cell N, or {' and '.join('--' + m for m in missing)}"
        )
    models = {name: model.model for name, model in plan.sweep.assistants.items()}
    names = [n for n, model in models.items() if arguments.model in (n, model)]
    if not names:
        raise InvalidInput(
            f"no assistant with model '{arguments.model}' in sweep {plan.sweep.name}\n"
            f"  allowed: {', '.join(models.values())}\n"
            f"  {nearest(arguments.model, models.values())}".rstrip()
        )
    for cell in plan.cells:
        if cell.assistant in names and cell.key[1:] == (
            arguments.env,
            arguments.agent_strategy,
            arguments.variant,
            arguments.trial,
        ):
            return cell.number
    cells = [cell for cell in plan.cells if cell.assistant in names]
    values: dict[str, list[str] | str] = {
        "env": sorted({c.env for c in cells}),
        "agent strategy": sorted({c.agent_strategy for c in cells}),
        "variant": sorted({c.variant for c in cells}),
        "trial": f"1 to {plan.sweep.trials}",
    }
    raise InvalidInput(
        f"sweep {plan.sweep.name} has no cell {arguments.env}, {arguments.agent_strategy}, "
        f"{arguments.variant}, trial {arguments.trial} for {arguments.model}\n"
        + "\n".join(
            f"  {name}: {v if isinstance(v, str) else ', '.join(v)}" for name, v in values.items()
        )
        + "\n  add it to the sweep file and submit again, or run it by hand with --model-base-url"
    )


def plan_by_hand(arguments: argparse.Namespace) -> tuple[RunDir, Plan]:
    """A sweep of one cell against endpoints that exist, in a run directory of its own.

    Raises InvalidInput for values that make no run, and where the run directory holds another.
    """
    for name in ("env", "model"):
        if getattr(arguments, name) is None:
            raise InvalidInput(f"--{name} is needed for a run by hand")
    assistant = slug(arguments.model)
    parts = [arguments.env, arguments.agent_strategy, assistant[:30], arguments.variant]
    name = f"hand-{'-'.join(parts)}"[:58] + f"-{arguments.trial}"
    run_dir = RunDir((arguments.run_dir or Path("runs") / name).resolve())
    document = Document("command line", _as_sweep_file(arguments, name, assistant), {})
    sweep = resolve(document, Path.cwd() / f"{name}.yaml")
    return run_dir, hand_plan(sweep, run_dir, assistant)


def hand_plan(sweep: Sweep, run_dir: RunDir, assistant: str) -> Plan:
    """Write the plan of a run without a sweep file; its cells are numbered from 0.

    Raises InvalidInput where the run directory holds a sweep, or results of other content.
    """
    old = load_plan(run_dir) if run_dir.plan.exists() else None
    if old is not None and old.sweep_file:
        raise InvalidInput(
            f"{run_dir.path} holds the sweep {old.sweep.name}; choose another --run-dir, or run a "
            "cell of that sweep with --run-dir and --cell"
        )
    profile = ClusterProfile(name="local", scheduler="local")
    plan = make_plan(sweep, profile, run_dir, old, None, DEFAULT_MAX_ARRAY_SIZE)
    # Where earlier trials are excluded, the cells that are left still count from 0.
    cells = tuple(c.model_copy(update={"number": i}) for i, c in enumerate(plan.cells))
    block = CellBlock(name=assistant, assistant=assistant, first_cell=0, size=len(cells))
    plan = plan.model_copy(update={"cells": cells, "blocks": (block,)})
    run_dir.path.mkdir(parents=True, exist_ok=True)
    save_plan(run_dir, plan)
    return plan


def _as_sweep_file(arguments: argparse.Namespace, name: str, assistant: str) -> dict[str, Any]:
    """The command line as the sweep file that says the same."""
    endpoint = {"engine": "openai", "api_key_env": arguments.api_key_env}
    user_url = arguments.user_base_url or arguments.model_base_url
    user_model = arguments.user_model or arguments.model
    data: dict[str, Any] = {
        "name": name,
        "matrix": {
            "env": arguments.env,
            "agent_strategy": arguments.agent_strategy,
            "variant": arguments.variant,
        },
        "trials": arguments.trial,
        "exclude": [{"trial": list(range(1, arguments.trial))}] if arguments.trial > 1 else [],
        "tasks": arguments.tasks,
        "seed": arguments.seed,
        "probe": arguments.probe,
        "max_steps": arguments.max_steps,
        "timeout_s": arguments.timeout,
        "concurrency": arguments.max_concurrency,
        "user": {**endpoint, "model": user_model, "base_url": user_url},
        "user_strategy": arguments.user_strategy,
        "assistants": {
            assistant: {
                **endpoint,
                "model": arguments.model,
                "base_url": arguments.model_base_url,
                "temperature": arguments.temperature,
            }
        },
    }
    if arguments.few_shot_displays_path is not None:
        data["few_shot_displays"] = {arguments.env: str(arguments.few_shot_displays_path)}
    return data
