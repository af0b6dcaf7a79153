"""Runs without a sweep file: one cell by hand, one cell of a sweep, tau-bench's RunConfig.

`from emobench.run import run; run(config)` takes the latter.
"""

from __future__ import annotations

import argparse
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from emobench.benchmarks.adapter import load_benchmark
from emobench.benchmarks.task_sets import TASK_COUNTS
from emobench.config.expand import expand
from emobench.config.identity import collect_cell_content, hash_content
from emobench.config.load import resolve
from emobench.config.yaml_lines import Document
from emobench.core.cluster import ClusterProfile
from emobench.core.errors import EmobenchError, InvalidInput, suggest_nearest
from emobench.core.ownership import make_folder, open_own_run_dir
from emobench.core.plan import CellBlock, Plan, load_plan, save_plan
from emobench.core.run_dir import RunDir, slugify
from emobench.core.sweep import Sweep
from emobench.runner.cell import run_cell
from emobench.runs.planning import DEFAULT_MAX_ARRAY_SIZE, find_held_tasks, make_plan
from emobench.store.episodes import EpisodeStore, make_cell_filter


def find_cell(plan: Plan, arguments: argparse.Namespace) -> int:
    """Return the number of the sweep's cell with these values; InvalidInput says what there is."""
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
            f"  {suggest_nearest(arguments.model, models.values())}".rstrip()
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


_BASE_URLS = {
    "openai": ("OPENAI_BASE_URL", "OPENAI_API_BASE"),
    "hosted_vllm": ("HOSTED_VLLM_API_BASE",),
}
"""Where litellm looks for a provider's address when the call names none."""
_USER_URL = "USER_MODEL_API_BASE"
"""Where scripts around tau-bench that serve the user by a model of its own say its address."""


def find_url_in_environment(provider: str = "openai") -> str | None:
    """Return the address of the assistant's endpoint where only the environment names one."""
    return next(filter(None, map(os.environ.get, _BASE_URLS.get(provider, ()))), None)


def is_by_hand(arguments: argparse.Namespace) -> bool:
    """Return whether a command line means a run without a sweep. Raises InvalidInput."""
    if arguments.model_base_url is not None:
        if arguments.cell is not None:
            raise InvalidInput("--cell names a cell of a sweep; --model-base-url runs without one")
        return True
    if arguments.cell is not None or find_url_in_environment() is None:
        return False
    run_dir = arguments.run_dir and RunDir(arguments.run_dir)
    return not (run_dir and run_dir.plan.exists() and load_plan(run_dir).sweep_file)


def plan_by_hand(arguments: argparse.Namespace) -> tuple[RunDir, Plan]:
    """Plan a sweep of one cell against endpoints that exist, in a run directory of its own.

    Raises InvalidInput for values that make no run, and where the run directory holds another.
    """
    for name in ("env", "model"):
        if getattr(arguments, name) is None:
            raise InvalidInput(f"--{name} is needed for a run by hand")
    assistant = slugify(arguments.model)
    parts = [arguments.env, arguments.agent_strategy, assistant[:30], arguments.variant]
    name = f"hand-{'-'.join(parts)}"[:58] + f"-{arguments.trial}"
    run_dir = open_own_run_dir(arguments.run_dir or Path("runs") / name)
    at = {"engine": "openai", "api_key_env": arguments.api_key_env}
    url = arguments.model_base_url or find_url_in_environment()
    user_url = arguments.user_base_url or os.environ.get(_USER_URL)
    data = _to_sweep_file(
        arguments,
        name,
        assistant,
        variant=arguments.variant,
        model={**at, "model": arguments.model, "base_url": url},
        user={**at, "model": arguments.user_model or arguments.model, "base_url": user_url or url},
        trials=arguments.trial,
        exclude=[{"trial": list(range(1, arguments.trial))}] if arguments.trial > 1 else [],
        tasks=arguments.tasks,
        probe=arguments.probe,
        max_steps=arguments.max_steps,
        timeout_s=arguments.timeout,
    )
    sweep = _resolve("command line", data, Path.cwd() / f"{name}.yaml", _name_option)
    return run_dir, write_plan_by_hand(sweep, run_dir, assistant)


def write_plan_by_hand(sweep: Sweep, run_dir: RunDir, assistant: str) -> Plan:
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
    make_folder(run_dir.path)
    save_plan(run_dir, plan)
    return plan


class EpisodesMissing(EmobenchError):
    """Some tasks have no result, because of the infrastructure; `results` are the others."""

    def __init__(self, message: str, results: list[Any]) -> None:
        super().__init__(message)
        self.results = results


def run_config(
    config: Any,
    *,
    variant: str | Mapping[str, str],
    model_base_url: str | None,
    user_base_url: str | None,
    fidelity: str | dict[str, bool],
    max_steps: int,
    progress: Callable[[str], None],
) -> list[Any]:
    """Run it, as `emobench.run.run` says."""
    tasks = _choose_tasks(config)
    own = {} if isinstance(variant, str) else {"variants": dict(variant)}
    name = variant if isinstance(variant, str) else ", ".join(variant)
    if own and len(variant) != 1:
        raise InvalidInput(f"one variant at a time, as {{name: text}}, not {name or 'none'}")
    assistant = slugify(config.model)
    user_url = user_base_url or os.environ.get(_USER_URL) or model_base_url
    data = _to_sweep_file(
        config,
        "run",
        assistant,
        variant=name,
        model=_build_role(config.model, config.model_provider, model_base_url),
        user=_build_role(config.user_model, config.user_model_provider, user_url),
        trials=config.num_trials,
        tasks=sorted(set(tasks)),
        probe="off",  # as stock's run: no call that the conversations do not need
        max_steps=max_steps,
        fidelity=fidelity,
        **own,
    )
    sweep = _resolve("RunConfig", data, Path.cwd() / "run.yaml")
    # Runs of other content get another folder, so that none is in the way of another; where the
    # models answer is no content, so that a run goes on after its servers moved.
    content = collect_cell_content(sweep, expand(sweep)[0], load_benchmark().label)
    what = f"{config.env}-{config.agent_strategy}-{slugify(config.model)[:30]}-{name}"
    name = f"{what}-{hash_content(content)[:8]}"[-64:].lstrip("-._")
    run_dir = open_own_run_dir(Path(config.log_dir) / name)
    # What an earlier call finished stays beside the tasks of this one.
    old = load_plan(run_dir).cells if run_dir.plan.exists() else ()
    held = set().union(*find_held_tasks(run_dir, old).values())
    kept = tuple(sorted({*sweep.tasks[config.env], *held}))
    sweep = sweep.model_copy(update={"name": name, "tasks": {config.env: kept}})
    plan = write_plan_by_hand(sweep, run_dir, assistant)
    result_type = load_benchmark().import_module("types").EnvRunResult
    results, missing = [], 0
    for cell in plan.cells:
        run_cell(plan, run_dir, cell.number, progress)
        with EpisodeStore(run_dir.cell(cell.number), make_cell_filter(cell)) as store:
            for task in tasks:
                record = store.records.get(task)
                if record is None or not record.is_final:
                    missing += 1
                    continue
                results.append(result_type(**record.to_stock_result()))
    if missing:
        raise EpisodesMissing(
            f"{missing} of {missing + len(results)} episodes have no result because of the "
            f"infrastructure; the same call runs them again (kept in {run_dir.path})",
            results,
        )
    return results


def _choose_tasks(config: Any) -> list[int]:
    """Return the tasks in the order that was asked for. Raises InvalidInput."""
    if config.task_split != "test":
        raise InvalidInput(f"task_split '{config.task_split}' is not supported; allowed: test")
    if config.env not in TASK_COUNTS:
        raise InvalidInput(f"unknown env '{config.env}'; allowed: {', '.join(TASK_COUNTS)}")
    repeated = [task for task, times in Counter(config.task_ids or ()).items() if times > 1]
    if repeated:
        raise InvalidInput(
            f"task_ids names {', '.join(map(str, repeated))} more than once: a task has one "
            "conversation a trial; for more of them set num_trials"
        )
    count = TASK_COUNTS[config.env]
    end = count if config.end_index == -1 else min(config.end_index, count)
    return list(config.task_ids or range(config.start_index, end))


def _build_role(model: str, provider: str, base_url: str | None) -> dict[str, Any]:
    url = base_url or find_url_in_environment(provider)
    role = {"engine": "openai", "model": model, "provider": provider}
    if url is not None:
        # With an address it is an OpenAI-compatible endpoint, whatever litellm calls it.
        role.update(base_url=url, provider="openai")
    key = f"{provider.upper()}_API_KEY"
    return {**role, "api_key_env": key if os.environ.get(key) else "OPENAI_API_KEY"}


_RENAMED = {
    "trials": "num_trials",
    "concurrency": "max_concurrency",
    "few_shot_displays": "few_shot_displays_path",
}
"""What a RunConfig calls otherwise than a sweep file."""


def _name_option(name: str) -> str:
    """Return the option of the command line for a name of a RunConfig."""
    renamed = {"num_trials": "--trial", "timeout_s": "--timeout"}
    return renamed.get(name) or "--" + name.replace("_", "-")


def _resolve(
    source: str, data: dict[str, Any], path: Path, given_as: Callable[[str], str] = str
) -> Sweep:
    """Read a run as a sweep file. Raises InvalidInput with each mistake once, under the name that
    its value was given by: RunConfig's, as `given_as` writes it."""
    (assistant,) = data["assistants"].values()

    def name_of(key: str) -> str:
        first, *others = re.split(r"[.\[]", key)
        if first == "matrix":
            return others[0]
        if first not in ("user", "assistants"):
            return _RENAMED.get(first, first)
        name = others[-1]
        # The user's is the assistant's where only one was given.
        apart = first == "user" and data["user"].get(name) != assistant.get(name)
        if name == "base_url":
            return "user_base_url" if apart else "model_base_url"
        return "user_model" if name == "model" and apart else name

    try:
        return resolve(Document(source, data, {}), path)
    except InvalidInput as error:
        problems = [
            replace(each, key=given_as(name_of(each.key)))
            for each in error.problems
            if not each.key.startswith("exclude")  # which follows from the trial
        ]
        raise InvalidInput(dict.fromkeys(problems)) from None


def _to_sweep_file(
    run: Any,
    name: str,
    assistant: str,
    *,
    variant: str,
    model: dict[str, Any],
    user: dict[str, Any],
    **settings: Any,
) -> dict[str, Any]:
    """Return a run as the sweep file that says the same.

    `run` is a command line or a RunConfig: what both have, they name alike.
    """
    data = {
        "name": name,
        "matrix": {"env": run.env, "agent_strategy": run.agent_strategy, "variant": variant},
        "seed": run.seed,
        "concurrency": run.max_concurrency,
        "user": user,
        "user_strategy": run.user_strategy,
        "assistants": {assistant: {**model, "temperature": run.temperature}},
        **settings,
    }
    if run.few_shot_displays_path is not None:
        data["few_shot_displays"] = {run.env: str(Path(run.few_shot_displays_path).resolve())}
    return data
