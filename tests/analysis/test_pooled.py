"""One set of numbers on every way to the reader, and several groups put together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

import pytest

from emobench.analysis.effects import estimate_effects
from emobench.analysis.pooled import VariantRow, build_variant_rows
from emobench.analysis.stats.estimates import Interval
from emobench.analysis.stats.means import sample_share
from emobench.analysis.stats.paired import paired_means, variant_difference
from emobench.analysis.stats.student import t_quantile
from emobench.cli.results_table import build_results
from emobench.cli.terminal import render_plain
from emobench.core.outcomes import Group
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import AgentStrategy, Cell, Env
from emobench.report.numbers import format_change, format_interval, format_number
from emobench.runs.status import read_status
from emobench.runs.watching.episodes import EpisodeScan
from emobench.runs.watching.state import Seen, build_watch_state
from emobench.store.episodes import EpisodeStore
from emobench.store.summaries import SummaryWriter
from emobench.tables.run_results import collect
from emobench.tables.table import load_tables
from tests.support.frames import arm, random_rewards
from tests.support.runs import append, episode, make_run, page_text

STRATEGIES: tuple[AgentStrategy, ...] = ("tool-calling", "react")
NOW = 1_800_000_000.0
Outcomes = Mapping[tuple[str, int, int], str]
"""By (variant, trial from 1, task) where it is not 'solved'."""

ONE_FAILURE = {("control", 1, 0): "failed"}
MIXED: Outcomes = {
    **{("control", trial, task): "failed" for trial in (1, 2, 3) for task in range(2, 20, 3)},
    **{("frustration", trial, task): "failed" for trial in (1, 2) for task in range(1, 20, 2)},
    ("control", 4, 5): "infra_error",
    ("frustration", 1, 4): "max_steps",
    ("frustration", 2, 4): "infra_error",
}


def run_with(
    path: Path, outcomes: Outcomes, groups: int = 1, envs: tuple[Env, ...] = ("retail",)
) -> RunDir:
    run_dir = make_run(
        path,
        variants=("control", "frustration"),
        strategies=STRATEGIES[:groups],
        envs=envs,
        tasks=20,
        trials=4,
    )
    for cell in load_plan(run_dir).cells:
        append(
            run_dir,
            cell,
            [episode(cell, task, outcome(cell, task, outcomes)) for task in cell.tasks],
        )
        write_summary(run_dir, cell)
    return run_dir


def write_summary(run_dir: RunDir, cell: Cell) -> None:
    """Write the summary as the cell's run does while it goes on."""
    with EpisodeStore(run_dir.cell(cell.number)) as store:
        SummaryWriter(load_plan(run_dir), run_dir, cell, {}).write(store)


def outcome(cell: Cell, task: int, outcomes: Outcomes) -> str:
    return outcomes.get((cell.variant, cell.trial, task), "solved")


def rows_of(run_dir: RunDir) -> dict[str, VariantRow]:
    return {row.variant: row for row in build_variant_rows(collect(run_dir), (1, 2, 4))}


@pytest.mark.parametrize("outcomes", [ONE_FAILURE, {}, MIXED])
def test_screen_terminal_gates_and_report_say_the_same(tmp_path: Path, outcomes: Outcomes) -> None:
    run_dir = run_with(tmp_path / "run", outcomes)
    plan = load_plan(run_dir)
    (group,) = estimate_effects(load_tables(run_dir).episodes, planned=plan.cells).groups
    findings = {each.variant: each for each in group.variants}

    scan = EpisodeScan(plan, run_dir)
    scan.read(dict.fromkeys(range(len(plan.cells)), True), None, NOW)
    status = read_status(run_dir)
    stated = {each.variant: each for each in status.variants}
    planned = dict.fromkeys(findings, 80)
    screen = build_watch_state(None, Seen(status, planned, scan.variants), {}, NOW).variants
    lines = {
        line.split()[0]: line for line in render_plain(*build_results(run_dir)).splitlines() if line
    }
    page = page_text(run_dir)

    for row in build_variant_rows(collect(run_dir), (1, 2, 4)):
        found = findings[row.variant]
        assert row.mean == found.paired_mean
        assert (row.scored, row.missing) == (found.mean.episodes, found.mean.missing)
        assert [(each.value, each.interval, each.notes) for each in row.passes] == [
            (each.value, each.interval, each.notes) for each in found.pass_k if each.k in (1, 2, 4)
        ]
        (shown,) = (each for each in screen if each.variant == row.variant)
        interval = found.paired_mean.interval
        assert interval is not None
        assert shown.episodes == found.mean.episodes
        status_row = stated[row.variant]
        assert (status_row.mean_reward, status_row.episodes) == (
            shown.mean_reward,
            found.mean.episodes,
        )
        # A gate's share of the same yes and no.
        solved = [
            (task, float(outcome(cell, task, outcomes) == "solved"))
            for cell in plan.cells
            for task in cell.tasks
            if cell.variant == row.variant and outcome(cell, task, outcomes) != "infra_error"
        ]
        gate = sample_share("x", solved)
        assert gate.value == shown.mean_reward
        assert gate.interval == Interval(shown.low or 0.0, shown.high or 0.0)
        assert f" {format_number(found.paired_mean.value)} " in lines[row.variant]
        assert f"{format_number(found.paired_mean.value)} {format_interval(interval)}" in page
        if found.contrast is not None:
            difference = found.contrast.difference
            assert row.difference is not None
            assert row.difference.t == difference.t
            assert (row.difference.value, row.difference.tasks, row.difference.label) == (
                difference.value,
                difference.tasks,
                difference.label,
            )
            assert f" {format_change(difference.value)} " in lines[row.variant]
            assert format_interval(difference.t, change=True) in lines[row.variant]


def test_status_watch_and_terminal_agree_on_a_run_under_way(tmp_path: Path) -> None:
    """Two groups, one with a cell that has just begun, and finished conversations of which the
    files have no reward."""
    run_dir = make_run(
        tmp_path / "run",
        variants=("control", "frustration"),
        strategies=("tool-calling", "react"),
        tasks=6,
        trials=2,
    )
    plan = load_plan(run_dir)
    for cell in plan.cells:
        tasks = cell.tasks[: cell.number % len(cell.tasks)]
        lines = [episode(cell, task, "solved" if task % 3 else "failed") for task in tasks]
        if lines and cell.variant == "frustration":
            lines[0] |= {"reward": None, "outcome": "user_error"}
            lines += [episode(cell, cell.tasks[-1], "infra_error")]
        append(run_dir, cell, lines)
        write_summary(run_dir, cell)
    scan = EpisodeScan(plan, run_dir)
    scan.read(dict.fromkeys(range(len(plan.cells)), False), None, NOW)
    status = read_status(run_dir)
    screen = build_watch_state(
        None, Seen(status, dict.fromkeys(scan.variants, 24), scan.variants), {}, 0
    )
    rows = rows_of(run_dir)
    assert status.cells.running == len(plan.cells)
    assert status.episodes.finished == sum(each.episodes for each in status.variants) > 0
    for stated, shown in zip(status.variants, screen.variants, strict=True):
        assert stated.mean_reward == shown.mean_reward
        assert stated.episodes == shown.episodes == rows[stated.variant].scored


def test_few_failures_have_the_interval_of_the_report(tmp_path: Path) -> None:
    one = rows_of(run_with(tmp_path / "one", ONE_FAILURE))["control"].mean
    assert format_interval(one.interval) == "[0.93, 1.00]"
    none = rows_of(run_with(tmp_path / "none", {}))["control"].mean
    assert format_interval(none.interval) == "[0.82, 1.00]"
    assert one.notes == none.notes == ("fewer than 10 tasks with a failure",)


def test_a_task_of_several_groups_is_one_cluster(tmp_path: Path) -> None:
    outcomes = {key: ended for key, ended in MIXED.items() if ended != "infra_error"}
    one = rows_of(run_with(tmp_path / "one", outcomes))
    twice = rows_of(run_with(tmp_path / "two", outcomes, groups=2))
    for name, row in twice.items():
        assert (row.mean.tasks, row.mean.episodes, row.planned) == (20, 160, 160)
        # The same conversations again say nothing new about how much tasks differ.
        assert row.mean.value == pytest.approx(one[name].mean.value)
        alone_t = one[name].mean.t
        assert row.mean.t is not None and alone_t is not None
        assert row.mean.t.low == pytest.approx(alone_t.low)
        for both, alone in zip(row.passes, one[name].passes, strict=True):
            assert both.value == pytest.approx(alone.value)
            assert both.tasks == 20
            assert both.interval is not None and alone.interval is not None
            assert both.interval.low == pytest.approx(alone.interval.low, abs=0.02)
    assert twice["frustration"].difference == one["frustration"].difference


def test_environments_have_tasks_of_their_own(tmp_path: Path) -> None:
    both = rows_of(run_with(tmp_path / "run", MIXED, envs=("retail", "airline")))
    assert both["control"].mean.tasks == 40
    assert [each.tasks for each in both["control"].passes] == [40, 40, 38]
    difference = both["frustration"].difference
    assert difference is not None
    gaps = [
        statistics.mean(rewards["frustration", task]) - statistics.mean(rewards["control", task])
        for rewards in [_rewards(MIXED)]
        for task in range(20)
    ] * 2
    assert difference.tasks == 40
    assert difference.value == pytest.approx(statistics.mean(gaps))
    width = t_quantile(39) * statistics.stdev(gaps) / 40**0.5
    assert difference.interval is not None
    assert difference.interval.low == pytest.approx(statistics.mean(gaps) - width)


def test_the_difference_of_a_shared_task_is_the_mean_of_its_groups(tmp_path: Path) -> None:
    run_dir = make_run(
        tmp_path / "run",
        variants=("control", "frustration"),
        strategies=("tool-calling", "react"),
        tasks=2,
        trials=1,
    )
    for cell in load_plan(run_dir).cells:
        fails = cell.variant == "frustration" and cell.agent_strategy == "react"
        ended = ["failed" if fails else "solved", "infra_error" if fails else "solved"]
        append(run_dir, cell, [episode(cell, task, ended[task]) for task in cell.tasks])
    row = rows_of(run_dir)["frustration"]
    assert row.difference is not None
    # Task 0: 0 and -1; task 1: 0, and no reward in the other group.
    assert (row.difference.value, row.difference.tasks) == (-0.25, 2)
    assert (row.missing, row.scored) == (1, 3)


def test_a_row_weighs_tasks_as_the_difference_beside_it(tmp_path: Path) -> None:
    """Hard tasks time out under anger: over its own episodes anger looks better than control."""
    run_dir = make_run(tmp_path / "run", variants=("control", "anger"), tasks=12, trials=4)
    cells = load_plan(run_dir).cells
    for cell in cells:
        lines = []
        for task in cell.tasks:
            hard, anger = task % 2, cell.variant == "anger"
            lost = anger and hard and (cell.trial > 1 or task in (9, 11))
            solved = not hard and (cell.trial > 1 or not anger)
            lines.append(
                episode(cell, task, "infra_error" if lost else "solved" if solved else "failed")
            )
        # Two planned episodes of anger were never begun.
        absent = 2 if (cell.variant, cell.trial) == ("anger", 4) else 0
        append(run_dir, cell, lines[: len(lines) - absent])
        write_summary(run_dir, cell)
    (group,) = estimate_effects(load_tables(run_dir).episodes, planned=cells).groups
    (found,) = (each for each in group.variants if each.contrast)
    contrast = found.contrast
    assert contrast is not None
    for mean, base, difference in (
        (contrast.paired_mean, contrast.baseline_mean, contrast.difference),
        (rows_of(run_dir)["anger"].mean, rows_of(run_dir)["anger"].baseline_mean, None),
    ):
        gap = (difference or contrast.difference).value
        assert base is not None and mean.value is not None and gap is not None
        assert base.value is not None
        assert mean.value - base.value == pytest.approx(gap)
        assert (mean.tasks, base.tasks, base.value) == (10, 10, 0.6)
    row = rows_of(run_dir)["anger"]
    assert (row.scored, row.missing) == (found.mean.episodes, 48 - found.mean.episodes)
    terminal = render_plain(*build_results(run_dir))
    (line,) = (line for line in terminal.splitlines() if line.startswith("anger "))
    assert line.split()[2] == format_number(contrast.paired_mean.value)
    assert line.split()[-1] == str(row.missing)
    assert "anger: 2 tasks without a pair left out; on the others control has 0.60" in terminal
    assert "2 left out; control 0.60 on these" in page_text(run_dir)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_means_by_group_and_task_add_up_to_their_difference(missing: float) -> None:
    groups = {
        Group("retail", "react", name): {
            variant: arm(random_rewards(seed + 10 * place, 20 + place, 4, 0.8, missing))
            for seed, variant in enumerate(("control", "anger"))
        }
        for place, name in enumerate(("a", "b", "c"))
    }
    difference = variant_difference(groups, "anger", "control")
    treated, control = paired_means(groups, "anger", "control")
    assert difference.value is not None and treated.value is not None and control.value is not None
    assert treated.value - control.value == pytest.approx(difference.value)
    assert treated.tasks == control.tasks == difference.tasks


def _rewards(outcomes: Outcomes) -> dict[tuple[str, int], list[float]]:
    return {
        (variant, task): [
            float(ended == "solved")
            for trial in range(1, 5)
            if (ended := outcomes.get((variant, trial, task), "solved")) != "infra_error"
        ]
        for variant in ("control", "frustration")
        for task in range(20)
    }
