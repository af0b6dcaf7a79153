"""What was run: models, tasks, versions, times. No key and no credential goes in here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from emobench.core.models import RoleModel
from emobench.core.plan import Plan
from emobench.core.ranges import format_ranges
from emobench.core.redaction import HIDDEN, names_secret
from emobench.core.wording import pluralise
from emobench.report.numbers import DASH, format_time
from emobench.report.study import Study
from emobench.scheduler.cost import sum_up
from emobench.tables.run_results import Collected

MOST_JOBS = 8
"""Ids that are listed one by one."""


def list_scripted_roles(collected: Collected) -> list[str]:
    """Return names of the roles that a scripted model plays."""
    sweep = collected.plan.sweep
    roles = {"user": sweep.user, **sweep.assistants}
    return [name for name, model in roles.items() if model.engine == "scripted"]


def list_facts(study: Study) -> list[tuple[str, str]]:
    """Return label and value of each fact, in reading order."""
    collected = study.collected
    plan = collected.plan
    sweep = plan.sweep
    records = [record for result in collected.cells for record in result.file.episodes]
    rows = [
        ("Sweep", sweep.name),
        ("Description", sweep.description),
        ("Sweep file", "/".join(Path(plan.sweep_file).parts[-2:])),
        ("Collected from", "; ".join(_describe_run(run) for run in study.runs)),
        ("User model", describe_model(sweep.user)),
        ("User strategy", sweep.user_strategy),
    ]
    for name, model in sweep.assistants.items():
        label = "Assistant" if name == model.model else f"Assistant {name}"
        rows.append((label, describe_model(model)))
    rows += [("Agent strategies", ", ".join(sweep.matrix.agent_strategy))]
    rows += [
        (f"Tasks, {env}", f"{format_ranges(tasks, dash=DASH)} ({pluralise(len(tasks), 'task')})")
        for env, tasks in sweep.tasks.items()
    ]
    rows += [
        ("Trials", str(sweep.trials)),
        ("Seed", str(sweep.seed)),
        ("Most agent steps", str(sweep.max_steps)),
        ("Few-shot examples", ", ".join(f"{e} {h}" for e, h in sweep.few_shot_sha256.items())),
        ("Fidelity switches", _format_value(sweep.fidelity.model_dump())),
        ("Judge", study.checks.judge or "none"),
        ("Gates", _describe_gates(study)),
        ("Since the submission", "; ".join(study.checks.settings_changed)),
        ("Concurrency", _describe_concurrency(plan)),
        ("Benchmark", _describe_versions(plan.benchmark, [r.benchmark for r in records])),
        ("emobench", _describe_versions(plan.emobench, [r.emobench for r in records])),
        ("Commits", "; ".join(f"{name} {commit}" for name, commit in plan.commits.items())),
        ("Cluster profile", _describe_profile(collected)),
        ("Server incarnations", _describe_incarnations(collected)),
        ("Jobs", "" if study.runs else _describe_jobs(collected)),
        ("Cost", "" if study.runs else _describe_cost(collected)),
        ("Planned", format_time(plan.created)),
        (
            "First conversation",
            format_time(min((r.started for r in records if r.started), default="")),
        ),
        (
            "Last conversation",
            format_time(max((r.started for r in records if r.started), default="")),
        ),
        ("Report written", format_time(datetime.now(UTC).isoformat())),
    ]
    return [(label, value) for label, value in rows if value]


def _describe_concurrency(plan: Plan) -> str:
    most = plan.sweep.concurrency
    limit = f", at most {pluralise(most, 'episode')} at a time in a cell" if most else ""
    return f"as the endpoints allowed{limit}"


def describe_model(model: RoleModel) -> str:
    """Return 'Qwen/Qwen3-4B, vllm, temperature 0.0': what differs from the defaults."""
    settings: dict[str, Any] = model.model_dump(exclude_defaults=True, exclude={"model", "engine"})
    if "base_url" in settings:
        settings["base_url"] = _strip_address(settings["base_url"])
    if "extra_args" in settings:
        settings["extra_args"] = " ".join(_redact_arguments(settings["extra_args"]))
    parts = [f"{key} {_format_value(value)}" for key, value in settings.items()]
    return ", ".join([model.model, f"engine {model.engine}", *parts])


def count_values(values: Iterable[str]) -> str:
    """Return the distinct values; with counts where there is more than one."""
    counts = Counter(value for value in values if value)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(
        f"{value} ({pluralise(count, 'conversation')})" for value, count in counts.most_common()
    )


def _describe_versions(planned: str, run: list[str]) -> str:
    ran = count_values(run)
    return planned if ran in ("", planned) else f"{planned}; conversations ran with {ran}"


def _describe_profile(collected: Collected) -> str:
    profile = collected.plan.profile
    accelerator = "no accelerator" if profile.accelerator == "none" else profile.accelerator
    return f"{profile.name} ({profile.scheduler}, {accelerator})"


def _describe_incarnations(collected: Collected) -> str:
    pairs = {
        (role if role == "user" else result.cell.assistant, incarnation)
        for result in collected.cells
        for record in result.file.episodes
        for role, incarnation in record.incarnations
    }
    counts = Counter(role for role, _ in pairs)
    return ", ".join(f"{role} {count}" for role, count in sorted(counts.items()))


def _describe_run(run: Mapping[str, Any]) -> str:
    published = ", published results" if run.get("published") else ""
    return (
        f"{run['name']} ({run['benchmark']}, emobench {run['emobench']}, seed {run['seed']}, "
        f"{pluralise(run['cells'], 'cell')}{published})"
    )


def _describe_gates(study: Study) -> str:
    thresholds = study.checks.thresholds.model_dump()
    changed = study.checks.thresholds_changed
    return _format_value(thresholds)[1:-1] + (
        f"; changed {format_time(changed)}, after results" if changed else ""
    )


def _describe_jobs(collected: Collected) -> str:
    """Return the jobs' ids by kind, the first and the last of many."""
    ids: dict[str, list[str]] = {}
    for job in collected.jobs[0]:
        ids.setdefault(str(job.kind), []).append(job.job_id)
    parts = []
    for kind, each in ids.items():
        shown = ", ".join(each) if len(each) <= MOST_JOBS else f"{each[0]} to {each[-1]}"
        parts.append(f"{pluralise(len(each), kind + ' job')} ({shown})")
    return ", ".join(parts)


def _describe_cost(collected: Collected) -> str:
    """Return the hours of the servers; nothing where the run recorded no job."""
    cost = collected.cost
    if not any(row.spent.running_s for row in cost.jobs):
        return ""
    totals = sum_up(cost)
    return f"{totals} (from {totals.source})"


def _format_value(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_format_value(each)}" for key, each in value.items()) + ")"
    return str(value)


def _strip_address(url: str) -> str:
    """Return the address without user, password and query: some sites put keys there."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _redact_arguments(arguments: Iterable[str]) -> list[str]:
    shown: list[str] = []
    hide_next = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if hide_next:
            shown.append(HIDDEN)
            hide_next = False
        elif names_secret(name):
            shown.append(f"{name}={HIDDEN}" if equals else name)
            hide_next = not equals
        else:
            shown.append(argument)
    return shown
