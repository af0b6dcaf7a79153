"""The results of each environment, assistant and agent strategy; assistants beside each other."""

from __future__ import annotations

from collections.abc import Sequence

from emobench.analysis.effects import (
    Contrast,
    GroupFinding,
    PooledFinding,
    VariantFinding,
)
from emobench.analysis.gates import find_labels
from emobench.analysis.stats.decisions import adjust
from emobench.analysis.stats.estimates import FEW, Decision, Difference
from emobench.analysis.stats.interaction import AssistantComparison
from emobench.analysis.stats.means import CLUSTERED
from emobench.core.outcomes import Condition
from emobench.report.blocks import (
    Block,
    Cell,
    Head,
    Items,
    Remark,
    Scalar,
    Section,
    Table,
    make_heads,
)
from emobench.report.drawing import Figure, assign_roles
from emobench.report.figures import Dot, draw_forest, make_share_axis, make_symmetric_axis
from emobench.report.numbers import (
    DAGGER,
    describe_decision,
    format_change,
    format_difference,
    format_interval,
    format_mean,
    format_number,
    format_p,
    format_p_phrase,
)
from emobench.report.sections.common import (
    BLANK,
    build_difference_cell,
    build_difference_columns,
    build_interval_columns,
    build_keys,
    format_size,
    format_title,
    is_compared,
    link_conversations,
    shorten_labels,
)
from emobench.report.sections.detail import (
    build_mediator_section,
    build_outcome_section,
    build_pass_k_section,
    build_protocol_section,
    build_sensitivity_section,
    build_task_section,
)
from emobench.report.study import Study

WEIGHT = "each task counts once"
DECISION_NOTE = (
    "All intervals at once: 95 % for the whole family (Bonferroni, Student's t), clear of 0 just "
    "where the adjusted p is below 0.05. p adjusted: sign flips, by Holm over the variants; "
    "placebo is no emotion and is tested alone. p equivalence: two one-sided t tests at the "
    "smallest effect of interest, by Holm too."
)
MOST_DOTS = 60
"""Rows of a figure; of more there is only the table."""


def build_group_section(study: Study, group: GroupFinding, identifier: str, prefix: str) -> Section:
    """Build everything about one group; `prefix` keeps the names of several apart."""
    blocks: list[Block] = [*build_effect_blocks(study, group, prefix)]
    parts = [
        build_pass_k_section(group, prefix),
        build_task_section(study, group, prefix),
        build_outcome_section(group, prefix),
        build_mediator_section(group, prefix),
        build_sensitivity_section(study, group, prefix),
        build_protocol_section(study, group, prefix),
    ]
    return Section(identifier, format_title(group), tuple(blocks), tuple(parts))


def build_effect_blocks(study: Study, group: GroupFinding, prefix: str) -> list[Block]:
    """Return the forest plot, mean reward, the table of both, and the labels that belong to
    them."""
    size = format_size(study, group)
    blocks: list[Block] = []
    if is_compared(group):
        blocks.append(build_effect_figure(study, group, prefix, size))
        blocks += build_label_blocks(study, group)
    blocks += [
        build_mean_figure(group, prefix, size),
        build_effect_table(study, group, prefix, size),
    ]
    if is_compared(group):
        blocks.append(build_decision_table(study, group, prefix))
    return blocks


def build_effect_figure(study: Study, group: GroupFinding, prefix: str, size: str) -> Figure:
    """Return the forest plot of the differences from the baseline."""
    dots = build_effect_dots(study, group)
    axis = make_symmetric_axis(
        f"difference in mean reward from {group.baseline}, paired by task", dots
    )
    return draw_forest(
        f"{prefix}effects",
        f"Difference in mean reward from {group.baseline} by variant, {format_title(group)}, "
        f"{size}",
        dots,
        axis,
        caption=f"Difference in mean reward, variant minus {group.baseline}, "
        f"{format_title(group)}, "
        f"{size}, {CLUSTERED} (Student's t over tasks); p from sign flips, adjusted by Holm over "
        f"the variants. Left of the dashed line the variant does worse than {group.baseline}. "
        "Beside each effect stand the gates that its variant does not pass.",
    )


def build_effect_dots(study: Study, group: GroupFinding, *, overall: bool = False) -> list[Dot]:
    """Return a dot for each variant's difference, with the gates that it does not pass; `overall`
    with the p over all groups."""
    roles = assign_roles([each.variant for each in group.variants], group.baseline)
    dots = []
    for each in group.variants:
        if each.contrast is None:
            continue
        found = each.contrast.difference
        if overall:
            found = adjust(found, each.contrast.overall)
        marks = study.find_labels(group, each.variant)
        dots.append(
            Dot(
                each.variant,
                found.value,
                found.interval,
                format_effect(found),
                shorten_labels(marks),
                any(mark.verdict == "failed" for mark in marks),
                f"{found.label}: {format_difference(found)}",
                roles[each.variant],
            )
        )
    return dots


def format_effect(found: Difference) -> str:
    """Return '-0.12 [-0.20, -0.04] p = 0.012', or why there is none."""
    if found.value is None:
        return found.reason or "no pair of tasks yet"
    parts = [
        format_change(found.value),
        format_interval(found.interval, change=True),
        format_p_phrase(found.p_adjusted),
    ]
    return "  ".join(part for part in parts if part)


def build_label_blocks(study: Study, group: GroupFinding) -> list[Block]:
    """Return the labels in full; those that all variants share once."""
    by_variant = {
        each.variant: [mark.text for mark in study.find_labels(group, each.variant)]
        for each in group.variants
        if each.contrast is not None
    }
    texts = list(dict.fromkeys(text for marks in by_variant.values() for text in marks))
    items = []
    for text in texts:
        names = [name for name, marks in by_variant.items() if text in marks]
        whose = "every variant" if len(names) == len(by_variant) > 1 else ", ".join(names)
        items.append((whose, text))
    if not items:
        return [Remark("Every variant passes all gates.", "Gates.")] if by_variant else []
    return [Items(tuple(items), "What has to be said beside these effects")]


def build_mean_figure(group: GroupFinding, prefix: str, size: str) -> Figure:
    """Return the plot of the mean rewards."""
    roles = assign_roles([each.variant for each in group.variants], group.baseline)
    dots = [
        Dot(
            each.variant,
            each.paired_mean.value,
            each.paired_mean.interval,
            f"{format_number(each.paired_mean.value)}  {format_interval(each.paired_mean.interval)}"
            if each.paired_mean.value is not None
            else "no result yet",
            caption=f"{each.paired_mean.label}: {format_mean(each.paired_mean)}",
            role=roles[each.variant],
        )
        for each in group.variants
    ]
    base = next((each.mean.value for each in group.variants if each.contrast is None), None)
    return draw_forest(
        f"{prefix}mean-reward",
        f"Mean reward by variant, {format_title(group)}, {size}",
        dots,
        make_share_axis("mean reward", base),
        caption=f"Mean reward by variant, {format_title(group)}, {size}, {CLUSTERED} (score "
        f"interval); {WEIGHT}"
        + (f"; {group.baseline} as the dashed line." if base is not None else "."),
    )


def build_effect_table(study: Study, group: GroupFinding, prefix: str, size: str) -> Table:
    """Return the table of mean rewards and differences."""
    compared = is_compared(group)
    head = list(make_heads("Variant", "Conversations", "Missing", "Mean reward"))
    if compared:
        head += [Head(f"Difference from {group.baseline}"), Head("p adjusted")]
        head += [Head("Tasks paired"), Head("Odds ratio"), Head("Gates", numeric=False)]
    notes = dict.fromkeys(
        f"{DAGGER} {each.variant}: {'; '.join(found)}."
        for each in group.variants
        if (found := _list_notes(each))
    )
    return Table(
        f"{prefix}main",
        f"Mean reward by variant and difference from {group.baseline}, {format_title(group)}, "
        f"{size}, "
        f"{CLUSTERED}; {WEIGHT}, on the tasks that are paired. p: sign-flip permutation over "
        "tasks, adjusted by Holm; odds ratio of success: GEE, a check on the other numbers, with "
        f"an interval from {FEW} tasks on."
        if compared
        else f"Mean reward by variant, {format_title(group)}, {size}, {CLUSTERED}; {WEIGHT}.",
        tuple(head),
        tuple(_build_effect_row(study, group, each, compared) for each in group.variants),
        (
            *notes,
            "Missing: infrastructure errors and planned conversations that are not there; they "
            "enter no mean (see sensitivity).",
        ),
        tuple(_build_effect_record(study, group, each) for each in group.variants),
    )


def _build_effect_row(
    study: Study, group: GroupFinding, each: VariantFinding, compared: bool
) -> tuple[Cell, ...]:
    mean = each.mean
    link = link_conversations(group, each.variant)
    mark = DAGGER if _list_notes(each) else ""
    cells = [
        Cell(each.variant, mark=mark),
        Cell(
            f"{mean.episodes:,}",
            f"of {mean.episodes + mean.missing:,}",
            link=link if mean.episodes else "",
        ),
        Cell(f"{mean.missing:,}", state="" if mean.missing else "muted"),
        Cell(
            format_number(each.paired_mean.value),
            format_interval(each.paired_mean.interval),
            each.paired_mean.label or each.paired_mean.reason,
        ),
    ]
    if not compared:
        return tuple(cells)
    if each.contrast is None:
        verdict = shorten_labels(study.find_labels(group, each.variant)) or "passed"
        return (*cells, BLANK, BLANK, BLANK, BLANK, Cell(verdict, state="muted"))
    found, odds = each.contrast.difference, each.contrast.odds_ratio
    marks = study.find_labels(group, each.variant)
    failed = any(mark.verdict == "failed" for mark in marks)
    return (
        *cells,
        build_difference_cell(found, reason=found.reason, state="strong"),
        Cell(format_p(found.p_adjusted), title=f"{found.permutation}; {found.adjustment}"),
        Cell(f"{found.tasks:,}", _describe_left_out(each.contrast)),
        Cell(format_number(odds.value), format_interval(odds.interval), odds.reason or odds.label),
        Cell(
            shorten_labels(marks) or "passed",
            state="failed" if failed else "not_checked" if marks else "passed",
        ),
    )


def build_decision_table(study: Study, group: GroupFinding, prefix: str) -> Table:
    """Return what each effect lets be said, within the group and over all groups, and against
    placebo."""
    several = len(study.findings.groups) > 1
    with_placebo = any(each.contrast and each.contrast.over_placebo for each in group.variants)
    heads = ["Variant", "Difference", "All intervals at once", "p adjusted", "p equivalence"]
    heads += ["p over all groups"] * several + ["Difference from placebo", "p"] * with_placebo
    rows, records = [], []
    for each in group.variants:
        if each.contrast is None:
            continue
        found, decision, overall = (
            each.contrast.difference,
            each.contrast.decision,
            each.contrast.overall,
        )
        cells = [Cell(each.variant), *_build_decision_cells(found, decision)]
        if several:
            cells.append(Cell(format_p(overall.p_adjusted), title=overall.family))
        if with_placebo:
            cells += _build_placebo_cells(each.contrast.over_placebo)
        cells.append(Cell(describe_decision(found, decision, group.baseline)))
        rows.append(tuple(cells))
        records.append(
            {
                **build_keys(group, each.variant),
                **_build_decision_record(found, decision, each.contrast.over_placebo),
                "overall_statement": overall.statement,
                "overall_p_adjusted": overall.p_adjusted,
                "overall_family": overall.family,
                **build_interval_columns("overall_simultaneous", overall.interval),
            }
        )
    return Table(
        f"{prefix}decisions",
        f"What each effect lets be said, {format_title(group)}.",
        (*make_heads(*heads), Head("So mean reward is", numeric=False)),
        tuple(rows),
        (DECISION_NOTE,),
        tuple(records),
    )


def build_pooled_table(pooled: Sequence[PooledFinding], baseline: str) -> Table:
    """Return the variants over all groups."""
    with_placebo = any(each.over_placebo for each in pooled)
    heads = ["Variant", "Mean reward", f"{baseline} on these tasks", "Difference"]
    heads += ["All intervals at once", "p adjusted", "p equivalence"]
    heads += ["Difference from placebo", "p"] * with_placebo
    return Table(
        "pooled",
        f"Each variant over all groups, {CLUSTERED}: {WEIGHT}, with the mean of its groups.",
        (*make_heads(*heads), Head("So mean reward is", numeric=False)),
        tuple(
            (
                Cell(each.variant),
                Cell(
                    format_number(each.paired_mean.value),
                    format_interval(each.paired_mean.interval),
                ),
                Cell(format_number(each.baseline_mean.value)),
                *_build_decision_cells(each.difference, each.decision),
                *(_build_placebo_cells(each.over_placebo) if with_placebo else ()),
                Cell(describe_decision(each.difference, each.decision, baseline)),
            )
            for each in pooled
        ),
        (DECISION_NOTE, "Groups are fixed: the intervals speak of tasks, not of other models."),
        tuple(
            {
                "variant": each.variant,
                "groups": each.groups,
                "mean": each.paired_mean.value,
                **build_interval_columns("mean", each.paired_mean.interval),
                "baseline_mean": each.baseline_mean.value,
                **build_difference_columns(each.difference),
                **_build_decision_record(each.difference, each.decision, each.over_placebo),
            }
            for each in pooled
        ),
    )


def _build_decision_cells(found: Difference, decision: Decision) -> list[Cell]:
    return [
        build_difference_cell(found, reason=found.reason, state="strong"),
        Cell(format_interval(decision.interval, change=True)),
        Cell(format_p(decision.p_adjusted), title=decision.family),
        Cell(format_p(decision.p_equivalence), title=decision.family),
    ]


def _build_placebo_cells(found: Difference | None) -> list[Cell]:
    if found is None:
        return [BLANK, BLANK]
    return [
        build_difference_cell(found, reason=found.reason),
        Cell(format_p(found.p_adjusted), title=found.adjustment),
    ]


def _build_decision_record(
    found: Difference, decision: Decision, over_placebo: Difference | None
) -> dict[str, Scalar]:
    return {
        "statement": decision.statement,
        "difference": found.value,
        **build_interval_columns("simultaneous", decision.interval),
        "p_adjusted": decision.p_adjusted,
        "adjustment": decision.family,
        "p_equivalence": decision.p_equivalence,
        "margin": decision.margin,
        "over_placebo": over_placebo.value if over_placebo else None,
        **build_interval_columns("over_placebo", over_placebo.t if over_placebo else None),
        "over_placebo_p_permutation": over_placebo.p_permutation if over_placebo else None,
        "over_placebo_p_adjusted": over_placebo.p_adjusted if over_placebo else None,
    }


def _describe_left_out(contrast: Contrast) -> str:
    """Return '3 left out; control 0.67 on these', or nothing where every task is paired."""
    if not contrast.difference.left_out:
        return ""
    base = f"; {contrast.baseline} {format_number(contrast.baseline_mean.value)} on these"
    return f"{contrast.difference.left_out} left out{base if contrast.difference.tasks else ''}"


def _list_notes(each: VariantFinding) -> list[str]:
    notes = list(each.paired_mean.notes)
    if each.contrast is not None:
        notes += each.contrast.difference.notes
    if each.mean.reason:
        notes.append(each.mean.reason)
    return list(dict.fromkeys(notes))


def _build_effect_record(
    study: Study, group: GroupFinding, each: VariantFinding
) -> dict[str, Scalar]:
    """Return the numbers unrounded, with the labels."""
    row: dict[str, Scalar] = {
        **build_keys(group, each.variant),
        "mean_label": each.paired_mean.label,
        "mean": each.paired_mean.value,
        **build_interval_columns("mean", each.paired_mean.interval),
        "baseline_mean": each.contrast.baseline_mean.value if each.contrast else None,
        "mean_of_all_its_tasks": each.mean.value,
        "episodes": each.mean.episodes,
        "missing": each.mean.missing,
    }
    found = each.contrast.difference if each.contrast else None
    odds = each.contrast.odds_ratio if each.contrast else None
    return {
        **row,
        **build_difference_columns(found),
        "odds_ratio": odds.value if odds else None,
        **build_interval_columns("odds_ratio", odds.interval if odds else None),
        "gates": "; ".join(mark.text for mark in study.find_labels(group, each.variant)),
    }


def build_comparison_section(study: Study) -> Section | None:
    """Build the comparison; None with one assistant: there is nothing to compare."""
    findings = study.findings
    if not findings.assistants and not findings.interactions:
        return None
    parts = []
    for found, identifier, title, what in (
        (
            findings.interactions,
            "interaction",
            "Does a variant's effect differ between assistants?",
            "Difference in a variant's effect on mean reward, first minus second assistant",
        ),
        (
            findings.assistants,
            "assistants",
            "Assistants under each variant",
            "Difference in mean reward, first minus second assistant, under each variant",
        ),
    ):
        if found:
            blocks: list[Block] = []
            if len(found) <= MOST_DOTS:
                blocks.append(_build_comparison_figure(found, identifier, what))
            blocks.append(_build_comparison_table(study, found, identifier, what))
            parts.append(Section(identifier, title, tuple(blocks)))
    return Section("comparison", "Assistants compared", (), tuple(parts))


def _build_comparison_figure(found: Sequence[AssistantComparison], name: str, what: str) -> Figure:
    dots: list[Dot] = []
    heading = ""
    for each in found:
        pair = f"{each.first} minus {each.second}, {each.env} / {each.agent_strategy}"
        if pair != heading:
            dots.append(Dot(pair, heading=True))
            heading = pair
        gap = each.difference
        caption = f"{gap.label}: {format_difference(gap)}"
        dots.append(Dot(each.variant, gap.value, gap.interval, format_effect(gap), caption=caption))
    return draw_forest(
        name,
        what,
        dots,
        make_symmetric_axis("difference, paired by task", dots),
        caption=f"{what}; paired by task, 95 % intervals clustered by task. Exploratory.",
    )


def _join_comparison_labels(study: Study, each: AssistantComparison) -> str:
    """Return the gates that the variant does not pass with either assistant."""
    conditions = [
        Condition(each.env, each.agent_strategy, assistant, each.variant)
        for assistant in (each.first, each.second)
    ]
    return shorten_labels(
        mark for condition in conditions for mark in find_labels(study.checks.gates, condition)
    )


def _build_comparison_table(
    study: Study, found: Sequence[AssistantComparison], name: str, what: str
) -> Table:
    return Table(
        name,
        f"{what}; paired by task, 95 % intervals clustered by task.",
        (
            *(Head(name, numeric=False) for name in ("Assistants", "Environment", "Strategy")),
            *make_heads("Variant", "Difference", "p adjusted", "Tasks"),
        ),
        tuple(
            (
                Cell(f"{each.first} minus {each.second}"),
                Cell(each.env),
                Cell(each.agent_strategy),
                Cell(
                    each.variant,
                    _join_comparison_labels(study, each) if name == "interaction" else "",
                ),
                build_difference_cell(
                    each.difference,
                    reason=each.difference.reason,
                    mark=DAGGER if each.difference.notes else "",
                ),
                Cell(format_p(each.difference.p_adjusted), title=each.difference.adjustment),
                Cell(f"{each.difference.tasks:,}"),
            )
            for each in found
        ),
        (
            "p from sign flips, adjusted by Benjamini and Hochberg over one environment and "
            f"strategy: exploratory. {DAGGER} Few tasks, or few that differ.",
        ),
        tuple(
            {
                "env": each.env,
                "agent_strategy": each.agent_strategy,
                "first": each.first,
                "second": each.second,
                "variant": each.variant,
                **build_difference_columns(each.difference),
            }
            for each in found
        ),
        folded=len(found) > 2 * MOST_DOTS,
    )
