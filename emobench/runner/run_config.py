"""tau_bench's RunConfig as a run of ours: `from emobench.run import run; run(config)`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emobench.core.errors import EmobenchError, InvalidInput

_BASE_URLS = {
    "openai": ("OPENAI_BASE_URL", "OPENAI_API_BASE"),
    "hosted_vllm": ("HOSTED_VLLM_API_BASE",),
}
"""Where litellm looks for a provider's address when the call names none."""


class EpisodesMissing(EmobenchError):
    """Some tasks have no result, because of the infrastructure; `results` are the others."""

    def __init__(self, message: str, results: list[Any]) -> None:
        super().__init__(message)
        self.results = results


def run_config(
    config: Any,
    *,
    variant: str,
    model_base_url: str | None,
    user_base_url: str | None,
    fidelity: str | dict[str, bool],
    max_steps: int,
    progress: Callable[[str], None],
) -> list[Any]:
    """See `emobench.run.run`."""
    from emobench.benchmarks.adapter import load_benchmark
    from emobench.config.expand import expand
    from emobench.config.identity import cell_content, content_hash
    from emobench.config.load import resolve
    from emobench.config.yaml_lines import Document
    from emobench.core.plan import load_plan
    from emobench.core.run_dir import RunDir, slug
    from emobench.runner.by_hand import hand_plan
    from emobench.runner.cell import run_cell
    from emobench.runs.planning import held_tasks
    from emobench.store.episodes import EpisodeStore

    data = _as_sweep_file(config, variant, model_base_url, user_base_url, fidelity, max_steps)
    data["probe"] = "off"  # as stock's run: no call that the conversations do not need
    assistant = next(iter(data["assistants"]))
    sweep = resolve(Document("RunConfig", data, {}), Path.cwd() / "run.yaml")
    # Runs of other content get another folder, so that none is in the way of another; where the
    # models answer is no content, so that a run goes on after its servers moved.
    content = cell_content(sweep, expand(sweep)[0], load_benchmark().label)
    what = f"{config.env}-{config.agent_strategy}-{slug(config.model)[:30]}-{variant}"
    name = f"{what}-{content_hash(content)[:8]}"[-64:].lstrip("-._")
    run_dir = RunDir((Path(config.log_dir) / name).resolve())
    # What an earlier call finished stays beside the tasks of this one.
    old = load_plan(run_dir).cells if run_dir.plan.exists() else ()
    held = set().union(*held_tasks(run_dir, old).values())
    tasks = tuple(sorted({*sweep.tasks[config.env], *held}))
    sweep = sweep.model_copy(update={"name": name, "tasks": {config.env: tasks}})
    plan = hand_plan(sweep, run_dir, assistant)
    result_type = load_benchmark().module("types").EnvRunResult
    results, missing = [], 0
    wanted = tuple(data["tasks"])
    for cell in plan.cells:
        run_cell(plan, run_dir, cell.number, progress)
        with EpisodeStore(run_dir.cell(cell.number)) as store:
            for task in _order(config, wanted):
                record = store.records.get(task)
                if record is None or not record.is_final:
                    missing += 1
                    continue
                results.append(
                    result_type(
                        task_id=task,
                        reward=record.reward,
                        info=record.info,
                        traj=record.traj,
                        trial=record.trial - 1,  # counted from 0 in tau-bench's results
                    )
                )
    if missing:
        raise EpisodesMissing(
            f"{missing} of {missing + len(results)} episodes have no result because of the "
            f"infrastructure; the same call runs them again (kept in {run_dir.path})",
            results,
        )
    return results


def _order(config: Any, tasks: tuple[int, ...]) -> list[int]:
    """The tasks in the order that was asked for."""
    return list(config.task_ids) if config.task_ids else list(tasks)


def _as_sweep_file(
    config: Any,
    variant: str,
    model_base_url: str | None,
    user_base_url: str | None,
    fidelity: str | dict[str, bool],
    max_steps: int,
) -> dict[str, Any]:
    from emobench.benchmarks.task_sets import TASK_COUNTS
    from emobench.core.run_dir import slug

    if config.task_split != "test":
        raise InvalidInput(f"task_split '{config.task_split}' is not supported; allowed: test")
    if config.env not in TASK_COUNTS:
        raise InvalidInput(f"unknown env '{config.env}'; allowed: {', '.join(TASK_COUNTS)}")
    count = TASK_COUNTS[config.env]
    end = count if config.end_index == -1 else min(config.end_index, count)
    tasks = list(config.task_ids or range(config.start_index, end))
    data: dict[str, Any] = {
        "name": "run",
        "matrix": {
            "env": config.env,
            "agent_strategy": config.agent_strategy,
            "variant": variant,
        },
        "trials": config.num_trials,
        "tasks": sorted(set(tasks)),
        "seed": config.seed,
        "max_steps": max_steps,
        "concurrency": config.max_concurrency,
        "fidelity": fidelity,
        "user": _role(
            config.user_model, config.user_model_provider, user_base_url or model_base_url
        ),
        "user_strategy": config.user_strategy,
        "assistants": {
            slug(config.model): {
                **_role(config.model, config.model_provider, model_base_url),
                "temperature": config.temperature,
            }
        },
    }
    if config.few_shot_displays_path is not None:
        data["few_shot_displays"] = {config.env: str(Path(config.few_shot_displays_path).resolve())}
    return data


def _role(model: str, provider: str, base_url: str | None) -> dict[str, Any]:
    names = _BASE_URLS.get(provider, ())
    url = base_url or next((os.environ[name] for name in names if os.environ.get(name)), None)
    role = {"engine": "openai", "model": model, "provider": provider}
    if url is not None:
        # With an address it is an OpenAI-compatible endpoint, whatever litellm calls it.
        role.update(base_url=url, provider="openai")
    key = f"{provider.upper()}_API_KEY"
    return {**role, "api_key_env": key if os.environ.get(key) else "OPENAI_API_KEY"}
