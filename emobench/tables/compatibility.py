"""Which runs may stand in one table: those whose episodes differ only in what the table names.

A table tells episodes apart by environment, agent strategy, assistant, variant, trial and task.
Whatever else affects a conversation has to be the same in all of its runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from emobench.config.identity import collect_cell_content, find_differing_keys
from emobench.core.errors import InvalidInput, Problem
from emobench.core.plan import Plan, load_plan
from emobench.core.ranges import format_ranges
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell

PUBLISHED = "tau_bench results"
"""What the plan of a run made of tau-bench's own result files has for a benchmark."""
_SHOWN = 12


@dataclass(frozen=True)
class Run:
    """A run directory that is read, by the name that the tables give it."""

    name: str
    run_dir: RunDir
    plan: Plan

    @property
    def published(self) -> bool:
        """Made of tau-bench's own result files, which do not say all that a plan says."""
        return self.plan.benchmark == PUBLISHED

    @cached_property
    def contents(self) -> dict[tuple[str, str, str, str, int], dict[str, Any]]:
        """What the episodes of each cell depend on, by the cell's key."""
        return {cell.key: self.collect_content(cell) for cell in self.plan.cells}

    def collect_content(self, cell: Cell) -> dict[str, Any]:
        kind = (cell.assistant, cell.env, cell.agent_strategy, cell.variant)
        known = self._kinds.get(kind)
        if known is None:
            known = collect_cell_content(self.plan.sweep, cell, self.plan.benchmark)
            self._kinds[kind] = known
        return {**known, "trial": cell.trial}

    @cached_property
    def _kinds(self) -> dict[tuple[str, str, str, str], dict[str, Any]]:
        return {}


def open_runs(paths: Iterable[Path]) -> list[Run]:
    """Return the runs at `paths`, each once, with names of their own: the sweep's, or the path
    where two sweeps have the same name. Raises InvalidInput where one is no run directory."""
    found = {path.resolve(): path for path in paths}
    plans = [(path, RunDir(real), load_plan(RunDir(real))) for real, path in found.items()]
    names = [plan.sweep.name for _, _, plan in plans]
    return [
        Run(name if names.count(name) == 1 else str(path), run_dir, plan)
        for (path, run_dir, plan), name in zip(plans, names, strict=True)
    ]


def open_compatible_runs(paths: Iterable[Path]) -> list[Run]:
    """Return the runs at `paths`; raises InvalidInput where one is none or they do not belong
    together."""
    runs = open_runs(paths)
    refuse_incompatible(runs)
    return runs


def refuse_incompatible(runs: Sequence[Run]) -> None:
    """Raise InvalidInput, with the keys that differ, where two runs do not belong together."""
    problems = []
    for one, other in combinations(runs, 2):
        differing = list_incompatibilities(one, other)
        if differing:
            shown = differing[:_SHOWN]
            shown += [f"and {len(differing) - _SHOWN} more"] if len(differing) > _SHOWN else []
            problems.append(
                Problem(
                    f"{one.name} and {other.name} do not belong in one table; differing "
                    f"({one.name} | {other.name}):\n    " + "\n    ".join(shown),
                    hint="collect them separately: an effect across them would be theirs, not the "
                    "variants'",
                )
            )
    if problems:
        raise InvalidInput(problems)


def list_incompatibilities(one: Run, other: Run) -> list[str]:
    """Return why two runs do not belong together, key by key; empty where they do."""
    left, right = collect_conditions(one), collect_conditions(other)
    if one.published or other.published:
        # What a results file does not say cannot be compared; what was given on the command line
        # can. Stock's faults and their repairs leave results comparable (docs/fidelity.md).
        for side in (left, right):
            for key in ("benchmark", "fidelity", "few_shot_sha256"):
                side.pop(key, None)
        if "unknown" in (one.plan.sweep.user.model, other.plan.sweep.user.model):
            left["user"] = right["user"] = None
        else:
            left["user"], right["user"] = (
                {"model": run.plan.sweep.user.model} for run in (one, other)
            )
        both = left["assistants"].keys() & right["assistants"].keys()
        if both and one.published != other.published:
            return [
                f"assistant '{min(both)}' is in both: name the published one otherwise "
                "(--assistant)"
            ]
    for key in ("tasks", "variants", "assistants", "few_shot_sha256"):
        if key in left:
            left[key], right[key] = _keep_shared(left[key], right[key])
    users = _keep_shared({"user": left["user"]}, {"user": right["user"]})
    left["user"], right["user"] = users[0]["user"], users[1]["user"]
    differing = find_differing_keys(left, right)
    if not differing:
        differing = _find_clashes(one, other)
    return [re.sub(r": was (.*), now (.*)$", r": \1 | \2", line, flags=re.S) for line in differing]


def collect_conditions(run: Run) -> dict[str, Any]:
    """Return what all episodes of a run share, and what its names stand for."""
    sweep = run.plan.sweep
    roles: dict[str, dict[str, Any]] = {}
    users: dict[str, Any] = {}
    for cell in run.plan.cells:
        content = run.collect_content(cell)
        roles.setdefault(cell.assistant, {})
        _merge(roles[cell.assistant], content["assistant"], cell.variant)
        _merge(users, content["user"], cell.variant)
    return {
        "benchmark": run.plan.benchmark,
        "user": users,
        "user_strategy": sweep.user_strategy,
        "max_steps": sweep.max_steps,
        "fidelity": sweep.fidelity.model_dump(),
        "tasks": {env: format_ranges(tasks) for env, tasks in sweep.tasks.items()},
        "variants": {
            name: variant.sha256 for name, variant in sweep.variants.items() if variant.sha256
        },
        "assistants": roles,
        "few_shot_sha256": dict(sweep.few_shot_sha256),
    }


def _find_clashes(one: Run, other: Run) -> list[str]:
    """Return the cells that both have, under one key, with episodes that are not the same
    episodes."""
    for key in sorted(one.contents.keys() & other.contents.keys()):
        differing = find_differing_keys(one.contents[key], other.contents[key])
        if differing:
            assistant, env, strategy, variant, trial = key
            name = f"{env}/{strategy}/{variant}/{assistant}/trial {trial}"
            return [f"{name} is in both: {line}" for line in differing]
    return []


def _merge(known: dict[str, Any], role: Mapping[str, Any], variant: str) -> None:
    """Add what a role's model is told by variant: a scripted assistant's rate of mistakes may
    differ."""
    rates = known.get("mistakes", {})
    known.update(role)
    if "mistakes" in role:
        rates[variant] = role["mistakes"] if isinstance(role["mistakes"], float) else 0.0
        known["mistakes"] = rates


def _keep_shared(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return both maps with the names that both have; maps within (mistakes by variant)
    likewise."""
    sides: tuple[dict[str, Any], ...] = ({}, {})
    for name in one:
        if name in other:
            pair = (one[name], other[name])
            if all(isinstance(side, Mapping) and "mistakes" in side for side in pair):
                rates = _keep_shared(pair[0]["mistakes"], pair[1]["mistakes"])
                pair = ({**pair[0], "mistakes": rates[0]}, {**pair[1], "mistakes": rates[1]})
            sides[0][name], sides[1][name] = pair
    return sides
