"""Below a group's effects: pass^k, tasks, outcomes, mediators, and what other choices change."""

from __future__ import annotations

import math

from emobench.analysis.effects import Exploratory, GroupFinding, VariantFinding
from emobench.analysis.stats.estimates import Difference, Mean, PassK
from emobench.analysis.stats.mediators import MEDIATORS, SCORED_OUTCOMES
from emobench.analysis.stats.units import Arm
from emobench.core.outcomes import Outcome
from emobench.core.wording import pluralise
from emobench.report.blocks import Block, Cell, Remark, Scalar, Section, State, Table, make_heads
from emobench.report.drawing import assign_roles
from emobench.report.figures import Curve, Point, Tile, draw_bars, draw_curves, draw_heatmap
from emobench.report.numbers import (
    DAGGER,
    format_difference,
    format_interval,
    format_mean,
    format_number,
    format_p,
    format_percent,
)
from emobench.report.sections.common import (
    BLANK,
    FEW_NOTE,
    build_difference_cell,
    build_difference_columns,
    build_interval_columns,
    build_keys,
    choose_few_mark,
    format_title,
    is_compared,
    link_conversations,
    shorten_labels,
)
from emobench.report.study import Study

TASKS_TITLE = "Tasks"
ROLES: dict[str, tuple[str, float]] = {
    "solved": ("good", 0.9),
    "failed": ("bad", 0.85),
    "agent_error": ("bad", 0.5),
    "max_steps": ("warn", 0.85),
    "context_overflow": ("warn", 0.5),
    "user_error": ("s4", 0.7),
}
EXPLORATORY = (
    "Differences are paired by task; p from sign flips, adjusted by Benjamini and Hochberg over "
    "this table: exploratory."
)


def build_pass_k_section(group: GroupFinding, prefix: str) -> Section:
    """Build the curves and their numbers; without two trials only pass^1, in words."""
    ks = sorted({each.k for variant in group.variants for each in variant.pass_k})
    blocks: list[Block] = []
    defined = [k for k in ks if any(_find_value(v.pass_k, k) is not None for v in group.variants)]
    if len(defined) > 1:
        roles = assign_roles([each.variant for each in group.variants], group.baseline)
        lines = [
            Curve(
                each.variant,
                tuple(
                    Point(
                        defined.index(found.k),
                        found.value,
                        found.interval,
                        f"{found.label}: {format_mean(found)}",
                    )
                    for found in each.pass_k
                    if found.value is not None
                ),
                roles[each.variant],
            )
            for each in group.variants
        ]
        blocks.append(
            draw_curves(
                f"{prefix}pass-k",
                f"pass^k by variant, {format_title(group)}",
                lines,
                [str(k) for k in defined],
                axis="k: trials of a task that must all succeed",
                value_axis="pass^k",
                caption=f"pass^k by variant, {format_title(group)}: the chance that k trials of a "
                "task "
                "all succeed, C(c,k)/C(n,k) averaged over tasks with the n trials counted for each "
                "task; whiskers are 95 % score intervals over tasks.",
            )
        )
    elif defined:
        blocks.append(Remark("No task has two scored trials, so there is no pass^2 or beyond."))
    else:
        blocks.append(Remark("No conversation has a result yet."))
    if defined:
        blocks.append(_build_pass_k_table(group, prefix, defined))
    if len(defined) > 1 and is_compared(group):
        blocks.append(_build_pass_k_differences(group, prefix))
    return Section(f"{prefix}pass-k-section", "Reliability over trials: pass^k", tuple(blocks))


def _build_pass_k_table(group: GroupFinding, prefix: str, ks: list[int]) -> Table:
    rows, records = [], []
    notes: dict[str, None] = {}
    for each in group.variants:
        cells = [Cell(each.variant)]
        for k in ks:
            found = next((item for item in each.pass_k if item.k == k), None)
            if found is None:
                cells.append(BLANK)
                continue
            few = (
                f"{found.tasks} of {pluralise(found.of, 'task')}" if found.tasks < found.of else ""
            )
            detail = " ".join(part for part in (format_interval(found.interval), few) if part)
            mark = DAGGER if found.notes and found.value is not None else ""
            title = "; ".join([found.label, *found.notes, found.reason]).strip("; ")
            cells.append(Cell(format_number(found.value), detail, title, mark=mark))
            if mark:
                notes.update(dict.fromkeys(found.notes))
            records.append({**build_keys(group, each.variant), **_build_pass_k_record(found)})
        rows.append(tuple(cells))
    return Table(
        f"{prefix}pass-k",
        f"pass^k by variant, {format_title(group)}, 95 % intervals over tasks; a dash where no "
        "task has k scored trials.",
        make_heads("Variant", *(f"pass^{k}" for k in ks)),
        tuple(rows),
        (f"{DAGGER} {'; or '.join(notes)}.",) if notes else (),
        tuple(records),
    )


def _build_pass_k_differences(group: GroupFinding, prefix: str) -> Table:
    """Return the differences from the baseline in pass^k, from pass^2 on."""
    found = {each.variant: each.contrast.pass_k for each in group.variants if each.contrast}
    names = list(dict.fromkeys(item.column for items in found.values() for item in items))
    rows = []
    for variant, items in found.items():
        cells = [Cell(variant)]
        for item in items:
            gap = item.difference
            mark = DAGGER if gap.left_out and gap.value is not None else ""
            cells.append(build_difference_cell(gap, reason=gap.reason, mark=mark))
            cells.append(Cell(format_p(gap.p_adjusted), title=gap.adjustment))
        rows.append(tuple(cells))
    return Table(
        f"{prefix}pass-k-differences",
        f"Difference in pass^k from {group.baseline} by variant, {format_title(group)}, on the "
        "tasks of which both have k scored trials; 95 % intervals over tasks.",
        make_heads("Variant", *(head for name in names for head in (name, "p adjusted"))),
        tuple(rows),
        (EXPLORATORY, f"{DAGGER} Tasks are left out of which only one side has k scored trials."),
        tuple(
            {
                **build_keys(group, variant),
                "pass_k": item.column,
                **build_difference_columns(item.difference),
                "left_out": item.difference.left_out,
            }
            for variant, items in found.items()
            for item in items
        ),
    )


def _build_pass_k_record(found: PassK) -> dict[str, Scalar]:
    return {
        "k": found.k,
        "label": found.label,
        "pass_k": found.value,
        **build_interval_columns("pass_k", found.interval),
        **build_interval_columns("pass_k_bootstrap", found.bootstrap),
        "tasks": found.tasks,
        "tasks_with_a_trial": found.of,
        "notes": "; ".join([*found.notes, found.reason]).strip("; "),
    }


def _find_value(found: tuple[PassK, ...], k: int) -> float | None:
    return next((each.value for each in found if each.k == k), None)


def build_task_section(study: Study, group: GroupFinding, prefix: str) -> Section:
    """Build the tiles of tasks and variants, the tasks from easy to hard under control."""
    identifier = f"{prefix}tasks"
    arms = study.arms.get(group.key, {})
    variants = [each.variant for each in group.variants if each.variant in arms]
    if not any(int(arms[name].n.sum()) for name in variants):
        return Section(identifier, TASKS_TITLE, (Remark("No task has a scored trial yet."),))
    by_task = {name: _collect_by_task(arms[name]) for name in variants}
    order = _sort_by_ease(by_task, group.baseline)
    rows = [
        (name, [_build_task_tile(name, task, by_task[name].get(task)) for task in order])
        for name in variants
    ]
    sorted_by = group.baseline if group.baseline in by_task else "all variants"
    figure = draw_heatmap(
        f"{prefix}tasks",
        f"Mean reward of each task by variant, {format_title(group)}",
        rows,
        [str(task) for task in order],
        axis=f"task, from easy to hard with {sorted_by}",
        caption=f"Mean reward of each task by variant, {format_title(group)}; tasks in the order "
        f"of their mean reward with {sorted_by}. A stroke marks tasks without a scored trial.",
        legend="mean reward of the task's scored trials",
    )
    table = Table(
        f"{prefix}tasks",
        f"Mean reward and scored trials of each task by variant, {format_title(group)}.",
        make_heads("Task", *variants),
        tuple(
            (Cell(str(task)), *(_build_task_cell(by_task[name].get(task)) for name in variants))
            for task in order
        ),
        records=tuple(
            _build_task_record(group, name, task, found)
            for name in variants
            for task in order
            if (found := by_task[name].get(task)) is not None
        ),
        folded=True,
        of=figure.name,
    )
    return Section(identifier, TASKS_TITLE, (figure, table))


_TaskResult = tuple[float, int, int, int]
"""(mean reward, scored trials, successes, missing)."""


def _collect_by_task(arm: Arm) -> dict[int, _TaskResult]:
    columns = (arm.means, arm.n, arm.successes, arm.missing)
    lists = [column.tolist() for column in columns]
    return dict(zip(arm.tasks.tolist(), zip(*lists, strict=True), strict=True))


def _sort_by_ease(by_task: dict[str, dict[int, _TaskResult]], baseline: str) -> list[int]:
    tasks = sorted({task for found in by_task.values() for task in found})

    def ease(task: int) -> tuple[float, float, int]:
        own = by_task.get(baseline, {}).get(task)
        means = [found[task][0] for found in by_task.values() if task in found]
        known = [value for value in means if not math.isnan(value)]
        overall = sum(known) / len(known) if known else -1.0
        base = own[0] if own and not math.isnan(own[0]) else (-1.0 if own else overall)
        return (-base, -overall, task)

    return sorted(tasks, key=ease)


def _build_task_tile(variant: str, task: int, found: _TaskResult | None) -> Tile:
    if found is None or math.isnan(found[0]):
        return Tile(None, f"task {task}, {variant}: no scored trial")
    mean, n, successes, missing = found
    lost = f", {missing} missing" if missing else ""
    return Tile(
        mean, f"task {task}, {variant}: {format_number(mean)}, {successes} of {n} solved{lost}"
    )


def _build_task_cell(found: _TaskResult | None) -> Cell:
    if found is None or math.isnan(found[0]):
        return BLANK
    return Cell(format_number(found[0]), f"of {found[1]}")


def _build_task_record(
    group: GroupFinding, variant: str, task: int, found: _TaskResult
) -> dict[str, Scalar]:
    mean, n, successes, missing = found
    return {
        **build_keys(group, variant),
        "task_id": task,
        "mean_reward": None if math.isnan(mean) else mean,
        "scored_trials": n,
        "successes": successes,
        "missing": missing,
    }


def build_outcome_section(group: GroupFinding, prefix: str) -> Section:
    """Build the figure and the table of how conversations ended."""
    title, identifier = "Outcomes", f"{prefix}outcomes"
    if not any(each.mean.episodes or each.mean.missing for each in group.variants):
        return Section(identifier, title, (Remark("Nothing is planned here."),))
    rows = [
        (
            each.variant,
            {o.replace("_", " "): _get_value_or_0(each.outcomes.get(o)) for o in SCORED_OUTCOMES},
        )
        for each in group.variants
    ]
    blocks: list[Block] = []
    if any(each.mean.episodes for each in group.variants):
        blocks.append(
            draw_bars(
                f"{prefix}outcomes",
                f"How the conversations ended by variant, {format_title(group)}",
                rows,
                {outcome.replace("_", " "): ROLES[outcome] for outcome in SCORED_OUTCOMES},
                caption=f"How the conversations ended by variant, {format_title(group)}: shares of "
                "scored conversations.",
            )
        )
    blocks.append(_build_outcome_table(group, prefix))
    return Section(identifier, title, tuple(blocks))


def _get_value_or_0(found: Mean | None) -> float:
    return found.value or 0.0 if found else 0.0


def _build_outcome_table(group: GroupFinding, prefix: str) -> Table:
    rows = []
    for each in group.variants:
        cells = [Cell(each.variant), Cell(f"{each.mean.episodes:,}")]
        cells += [
            _build_outcome_cell(group, each, outcome)
            for outcome in (*SCORED_OUTCOMES, Outcome.INFRA_ERROR)
        ]
        rows.append(tuple(cells))
    return Table(
        f"{prefix}outcomes",
        f"How the conversations ended, {format_title(group)}: counts, and shares of the scored "
        "ones; 95 % intervals on hover and in the exports. A count leads to its conversations.",
        make_heads("Variant", "Scored", *(o.replace("_", " ") for o in SCORED_OUTCOMES), "missing"),
        tuple(rows),
        (
            f"{FEW_NOTE} Agent error: a malformed or unknown tool call, or no usable reply. User "
            "error: the simulated user left its role. Both are data. Missing (of all planned): "
            "infrastructure errors, run again when the sweep is, and conversations that are not "
            "there.",
        ),
        tuple(
            {
                **build_keys(group, each.variant),
                "outcome": outcome,
                "label": found.label,
                "share": found.value,
                **build_interval_columns("share", found.interval),
                "count": found.events,
                "episodes": found.episodes,
                "notes": "; ".join(found.notes),
                **build_difference_columns(_find_change(each, outcome)),
            }
            for each in group.variants
            for outcome, found in each.outcomes.items()
        ),
    )


def _build_outcome_cell(group: GroupFinding, each: VariantFinding, outcome: str) -> Cell:
    found = each.outcomes.get(outcome)
    if found is None or found.value is None:
        return BLANK
    count = found.events
    title = f"{found.label}: {format_percent(found.value)} {format_interval(found.interval)}"
    if not count:
        return Cell("0", title=title, state="muted")
    link = link_conversations(group, each.variant, outcome=outcome)
    return Cell(f"{count:,}", format_percent(found.value), title, link, mark=choose_few_mark(found))


def _find_change(each: VariantFinding, column: str) -> Difference | None:
    return _find_difference(each.contrast.outcomes, column) if each.contrast else None


def _find_difference(found: tuple[Exploratory, ...], column: str) -> Difference | None:
    return next((item.difference for item in found if item.column == column), None)


def build_mediator_section(group: GroupFinding, prefix: str) -> Section:
    """Build the means per conversation and their differences from control."""
    title, identifier = "What else changed", f"{prefix}mediators"
    present = [
        column
        for column in MEDIATORS
        if any(m.column == column and m.episodes for v in group.variants for m in v.mediators)
    ]
    if not present:
        return Section(identifier, title, (Remark("No scored conversation yet."),))
    rows: list[tuple[Cell, ...]] = []
    records: list[dict[str, Scalar]] = []
    for column in present:
        cells = [Cell(f"{MEDIATORS[column]}")]
        for each in group.variants:
            mean = next((m for m in each.mediators if m.column == column), None)
            gap = _find_difference(each.contrast.mediators, column) if each.contrast else None
            detail = ""
            if gap is not None and gap.value is not None:
                detail = format_difference(gap, None)
            sure = gap is not None and gap.p_adjusted is not None and gap.p_adjusted < 0.05
            label = gap.label if gap else mean.label if mean else ""
            p = f"; adjusted p {format_p(gap.p_adjusted)}" if gap else ""
            cells.append(
                Cell(
                    format_number(mean.value if mean else None, None),
                    detail,
                    f"{label}{p}",
                    state="strong" if sure else "",
                )
            )
            records.append(
                {
                    **build_keys(group, each.variant),
                    "column": column,
                    "label": mean.label if mean else None,
                    "mean": mean.value if mean else None,
                    "episodes": mean.episodes if mean else 0,
                    **build_difference_columns(gap),
                }
            )
        rows.append(tuple(cells))
    table = Table(
        f"{prefix}mediators",
        f"Means per conversation by variant, {format_title(group)}; behind them the difference "
        f"from {group.baseline} with its 95 % interval clustered by task.",
        make_heads("Per conversation", *(each.variant for each in group.variants)),
        tuple(rows),
        (f"Bold: adjusted p below 0.05. {EXPLORATORY}",),
        tuple(records),
    )
    remark = Remark(
        "These follow from the variant: a longer conversation may be why a task fails, or merely "
        "come with it. No result is corrected for them."
    )
    return Section(identifier, title, (table, remark))


def build_sensitivity_section(study: Study, group: GroupFinding, prefix: str) -> Section:
    """Build the first attempts lost by variant, and the differences under other treatments of lost
    and missing conversations."""
    title, identifier = "Sensitivity to missing data", f"{prefix}sensitivity"
    compared = [each for each in group.variants if each.contrast and each.contrast.sensitivity]
    if not compared:
        reason = f"Nothing is compared with {group.baseline} here."
        return Section(identifier, title, (Remark(reason),))
    missing = sum(each.mean.missing for each in group.variants)
    if not missing and not any(each.lost.value for each in group.variants):
        reason = (
            "No reward is missing and no first attempt was lost, so there is nothing that another "
            "treatment could change."
        )
        return Section(identifier, title, (Remark(reason),))
    rules = [each.rule for each in compared[0].contrast.sensitivity] if compared[0].contrast else []
    rows, records = [], []
    for each in compared:
        assert each.contrast is not None
        main = each.contrast.difference
        marks = shorten_labels(study.find_labels(group, each.variant))
        cells = [Cell(each.variant, marks), Cell(f"{each.mean.missing:,}")]
        cells.append(build_difference_cell(main))
        for found in each.contrast.sensitivity:
            state: State = "strong" if found.reverses else ""
            cells.append(build_difference_cell(found, state=state))
            records.append(
                {
                    **build_keys(group, each.variant),
                    "rule": found.rule,
                    "label": found.label,
                    "difference": found.value,
                    **build_interval_columns("difference", found.t),
                    "p_permutation": found.p_permutation,
                    "tasks": found.tasks,
                    "reason": found.reason,
                    "reverses": found.reverses,
                }
            )
        rows.append(tuple(cells))
    table = Table(
        f"{prefix}sensitivity",
        f"Difference in mean reward from {group.baseline} under other treatments of lost and "
        f"missing conversations, {format_title(group)}, 95 % intervals clustered by task.",
        make_heads("Variant", "Missing", "as missing (main)", *rules),
        tuple(rows),
        (
            "As failure: every missing reward is 0. Worst case: 0 for the variant and 1 for "
            f"{group.baseline}; best case: the reverse (bounds without any assumption). Lost first "
            "attempts as failures: 0 for every conversation whose first attempt gave no result, "
            "whatever its rerun gave.",
            "Bold: reads otherwise than the main difference, by p before adjustment (a drop, a "
            "gain, or neither).",
        ),
        tuple(records),
    )
    return Section(identifier, title, (_build_loss_table(group, prefix), table))


def _build_loss_table(group: GroupFinding, prefix: str) -> Table:
    """Build the share of first attempts that were lost, by variant, against the baseline's."""
    rows, records = [], []
    for each in group.variants:
        found = each.contrast.lost if each.contrast else None
        gap = Cell("") if found is None else build_difference_cell(found, reason=found.reason)
        p = "" if found is None else format_p(found.p_permutation)
        rows.append(
            (
                Cell(each.variant),
                Cell(
                    f"{each.lost.events or 0:,} of {each.lost.episodes:,}",
                    format_interval(each.lost.interval),
                    each.lost.label,
                    mark=choose_few_mark(each.lost),
                ),
                gap,
                Cell(p),
            )
        )
        records.append(
            {
                **build_keys(group, each.variant),
                "label": each.lost.label,
                "begun": each.lost.episodes,
                "lost": each.lost.events,
                "share": each.lost.value,
                **build_interval_columns("share", each.lost.interval),
                **build_difference_columns(found),
            }
        )
    return Table(
        f"{prefix}lost",
        f"Share of first attempts lost, {format_title(group)}, 95 % intervals clustered by task: "
        "those that met an infrastructure error, or were set aside by `emobench rerun`.",
        make_heads("Variant", "First attempts lost", f"Difference from {group.baseline}", "p"),
        tuple(rows),
        (
            "A rerun is another draw. Where the conversations that fail are the ones that are "
            f"lost, reruns hide an effect; p from sign flips, not adjusted. {FEW_NOTE}",
        ),
        tuple(records),
    )


def build_protocol_section(study: Study, group: GroupFinding, prefix: str) -> Section:
    """Build the differences per protocol, second to the main analysis."""
    title, identifier = "Per protocol", f"{prefix}protocol"
    if study.sample is not None:
        text = (
            "Not computed: only a sample of the conversations was read, so it is not known of "
            "each whether its user kept to the protocol."
        )
        return Section(identifier, title, (Remark(text),))
    rows, records = [], []
    for each in group.variants:
        found = each.contrast.per_protocol if each.contrast else None
        if each.contrast is None or found is None or not is_compared(group):
            continue
        main = each.contrast.difference
        rows.append(
            (
                Cell(each.variant, shorten_labels(study.find_labels(group, each.variant))),
                build_difference_cell(main),
                build_difference_cell(found, reason=found.reason),
                Cell(f"{found.tasks:,}"),
            )
        )
        records.append({**build_keys(group, each.variant), **build_difference_columns(found)})
    if not rows:
        return Section(identifier, title, (Remark("There is nothing to compare."),))
    table = Table(
        f"{prefix}protocol",
        f"Difference in mean reward from {group.baseline}, {format_title(group)}: all "
        "conversations "
        "as assigned (main), and those only whose user invented and contradicted nothing, did not "
        "stop early and stayed the user; 95 % intervals clustered by task.",
        make_heads("Variant", "as assigned (main)", "per protocol", "Tasks paired"),
        tuple(rows),
        (
            "The second selects by what happened after the variant acted, so its sides are no "
            "longer comparable by design.",
        ),
        tuple(records),
    )
    return Section(identifier, title, (table,))
