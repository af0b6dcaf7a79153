"""Runs that a person starts by hand: one cell without a sweep file, or one cell of a sweep."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emobench import __version__
from emobench.config.cluster import ClusterProfile
from emobench.config.models import OpenAIModel
from emobench.config.sweep import Cell, Matrix, Sweep
from emobench.errors import InvalidInput, nearest
from emobench.plan import CellBlock, Plan, save_plan
from emobench.rundir import RunDir, slug


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
    """A sweep of one cell against endpoints that exist, in a run directory of its own."""
    from emobench.benchmarks.adapter import load_benchmark
    from emobench.config.identity import cell_content, differing_keys
    from emobench.config.load import parse_tasks
    from emobench.variants.catalog import builtin

    for name in ("env", "model"):
        if getattr(arguments, name) is None:
            raise InvalidInput(f"--{name} is needed for a run by hand")
    assistant = slug(arguments.model)
    common = {"api_key_env": arguments.api_key_env}
    displays = arguments.few_shot_displays_path
    if arguments.agent_strategy == "few-shot" and (displays is None or not displays.is_file()):
        raise InvalidInput(
            "--agent-strategy few-shot needs --few-shot-displays-path: a JSONL file of examples"
        )
    name = "-".join(
        ["hand", arguments.env, arguments.agent_strategy, assistant[:30], arguments.variant]
    )[:58]
    tasks = parse_tasks(arguments.tasks, arguments.env)
    try:
        sweep = Sweep(
            name=f"{name}-{arguments.trial}",
            matrix=Matrix(
                env=(arguments.env,),
                agent_strategy=(arguments.agent_strategy,),
                variant=(arguments.variant,),
                assistant=(assistant,),
            ),
            trials=arguments.trial,
            tasks={arguments.env: tasks},
            seed=arguments.seed,
            user=OpenAIModel(
                model=arguments.user_model or arguments.model,
                base_url=arguments.user_base_url or arguments.model_base_url,
                **common,
            ),
            user_strategy=arguments.user_strategy,
            assistants={
                assistant: OpenAIModel(
                    model=arguments.model,
                    base_url=arguments.model_base_url,
                    temperature=arguments.temperature,
                    **common,
                )
            },
            variants={arguments.variant: builtin(arguments.variant)},
            few_shot_displays={} if displays is None else {arguments.env: str(displays.resolve())},
            max_steps=arguments.max_steps,
            concurrency=arguments.max_concurrency,
        )
    except ValueError as error:
        details: list[Any] = getattr(error, "errors", list)()
        said = "; ".join(f"{'.'.join(map(str, d['loc']))}: {d['msg']}" for d in details)
        raise InvalidInput(f"these values make no run: {said or error}") from None
    cell = Cell(
        number=0,
        assistant=assistant,
        env=arguments.env,
        agent_strategy=arguments.agent_strategy,
        variant=arguments.variant,
        trial=arguments.trial,
        tasks=tasks,
    )
    run_dir = RunDir((arguments.run_dir or Path("runs") / sweep.name).resolve())
    plan = Plan(
        emobench=__version__,
        benchmark=load_benchmark().label,
        sweep_file="",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        sweep=sweep,
        profile=ClusterProfile(name="local", scheduler="local"),
        cells=(cell,),
        blocks=(CellBlock(name=assistant, assistant=assistant, first_cell=0, size=1),),
        logs=str(Path("logs").resolve()),
    )
    if run_dir.plan.exists():
        from emobench.plan import load_plan

        old = load_plan(run_dir)
        differing = (
            differing_keys(cell_content(old.sweep, old.cells[0], ""), cell_content(sweep, cell, ""))
            if len(old.cells) == 1
            else ["cells: it holds a whole sweep"]
        )
        if differing:
            raise InvalidInput(
                f"{run_dir.path} holds a run with other content:\n  "
                + "\n  ".join(differing)
                + "\n  choose another --run-dir"
            )
    run_dir.path.mkdir(parents=True, exist_ok=True)
    save_plan(run_dir, plan)
    return run_dir, plan
