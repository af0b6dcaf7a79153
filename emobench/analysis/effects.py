"""All findings of a study from its table of episodes: what the report and the exports show.

Every episode counts as its variant was assigned (intent to treat). Where a per-protocol column is
given, the same difference over the conforming episodes stands beside it, second, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from emobench.analysis.stats.decisions import adjust, decide
from emobench.analysis.stats.estimates import (
    Decision,
    Difference,
    Mean,
    OddsRatio,
    PassK,
    Sensitivity,
    describe_size,
    to_plain,
)
from emobench.analysis.stats.gee import fit_odds_ratios
from emobench.analysis.stats.interaction import (
    AssistantComparison,
    compare_assistants,
    compare_effects,
)
from emobench.analysis.stats.lost_attempts import count_losses, fail_losses
from emobench.analysis.stats.means import mean_reward, outcome_rate
from emobench.analysis.stats.mediators import MEDIATORS, SCORED_OUTCOMES, Columns, sum_columns
from emobench.analysis.stats.multiplicity import benjamini_hochberg, holm
from emobench.analysis.stats.paired import (
    Groups,
    make_undefined,
    paired_difference,
    paired_means,
    variant_difference,
)
from emobench.analysis.stats.pass_k import pass_k_curve, pass_k_difference
from emobench.analysis.stats.sensitivity import compare_lost, compare_missing, mark_reversals
from emobench.analysis.stats.units import (
    Arm,
    Sums,
    align_by_task,
    count_by_task,
    divide,
    split_arms,
)
from emobench.core.gates import Gates
from emobench.core.outcomes import CONTROL, Group, Outcome
from emobench.core.sweep import Cell, Sweep
from emobench.core.wording import pluralise
from emobench.store.labels import NEUTRAL

if TYPE_CHECKING:
    import pandas

SCHEMA_VERSION = 1
PLACEBO = "placebo"
"""Its name in plans of 0.1, which do not say what a judge should see."""
UNDECIDED = Decision("unknown", None, "", None, None, 0.0)
"""Of a contrast before those of its family are known."""
MOST_K = 16
"""pass^k beyond it is of no use, and a thousand trials would make a thousand rows of it."""
POST_TREATMENT = (
    "per protocol: episodes selected by what happened after the variant acted, so the sides are "
    "no longer comparable by design"
)


@dataclass(frozen=True)
class MediatorMean:
    """Mean of a column over the scored episodes of a variant."""

    label: str
    column: str
    value: float | None
    episodes: int


@dataclass(frozen=True)
class Exploratory:
    """A paired difference in something other than the reward."""

    column: str
    """A mediator's column, an outcome's name, or 'pass^2'."""
    difference: Difference


@dataclass(frozen=True)
class Contrast:
    """A variant against the baseline."""

    baseline: str
    difference: Difference
    """In mean reward; p_adjusted by Holm over the variants of the group."""
    decision: Decision
    """What it lets be said, over the variants of the group."""
    overall: Decision
    """The same over the variants of all groups: for who looks at several."""
    over_placebo: Difference | None
    """From placebo, p_adjusted by Holm over the variants; None where the group has none."""
    paired_mean: Mean
    """Mean reward of the variant on the tasks that are paired."""
    baseline_mean: Mean
    """The baseline's on the same tasks: `paired_mean` minus it is `difference`."""
    sensitivity: tuple[Sensitivity, ...]
    lost: Difference
    """In the share of first attempts that were lost; its p is not adjusted."""
    odds_ratio: OddsRatio
    outcomes: tuple[Exploratory, ...]
    mediators: tuple[Exploratory, ...]
    pass_k: tuple[Exploratory, ...]
    """From pass^2 on: pass^1 is the mean reward."""
    per_protocol: Difference | None
    """None where no column says which episodes conform."""


@dataclass(frozen=True)
class VariantFinding:
    """One variant of one group."""

    variant: str
    mean: Mean
    """Over all tasks of its own; what stands beside a difference is `paired_mean`."""
    pass_k: tuple[PassK, ...]
    """k from 1 to the largest number of scored trials of any task in the group, at most 16."""
    outcomes: Mapping[str, Mean]
    """Share of scored episodes by outcome, infra_error's of all episodes."""
    mediators: tuple[MediatorMean, ...]
    lost: Mean
    """Share of the first attempts, of conversations that were begun, that were lost."""
    contrast: Contrast | None
    """None for the baseline itself."""

    @property
    def paired_mean(self) -> Mean:
        """Mean reward on the tasks that its difference is over; on its own where there is none."""
        if self.contrast is None or self.contrast.difference.value is None:
            return self.mean
        return self.contrast.paired_mean


@dataclass(frozen=True)
class GroupFinding:
    """The variants of one (environment, agent strategy, assistant)."""

    env: str
    agent_strategy: str
    assistant: str
    baseline: str
    variants: tuple[VariantFinding, ...]

    @property
    def key(self) -> Group:
        return Group(self.env, self.agent_strategy, self.assistant)


@dataclass(frozen=True)
class PooledFinding:
    """A variant against the baseline over all groups: tasks are the clusters, groups are fixed."""

    variant: str
    groups: int
    """Those that have both."""
    paired_mean: Mean
    baseline_mean: Mean
    difference: Difference
    """p_adjusted by Holm over the variants."""
    decision: Decision
    over_placebo: Difference | None


@dataclass(frozen=True)
class Findings:
    groups: tuple[GroupFinding, ...]
    pooled: tuple[PooledFinding, ...]
    """Each variant over all groups; with one group, that group's."""
    assistants: tuple[AssistantComparison, ...]
    """Assistants compared under each variant; exploratory."""
    interactions: tuple[AssistantComparison, ...]
    """Variant by assistant; exploratory."""
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Return dicts, lists, numbers and strings only; what is undefined is null."""
        found: dict[str, Any] = to_plain(self)
        return found


def estimate_effects(
    frame: pandas.DataFrame,
    *,
    baseline: str = CONTROL,
    variants: Sequence[str] | None = None,
    planned: Iterable[Cell] = (),
    per_protocol: str | None = None,
    margin: float = Gates().smallest_effect,
    placebos: Sequence[str] = (),
) -> Findings:
    """Return everything the report shows, for every group in `frame`.

    `variants` gives the order (default: the baseline, then as in the plan or the frame); those
    without a row in a group are left out of it. With `planned`, the plan's cells, an episode that
    is not in the frame is missing. `per_protocol` names a boolean column: which episodes conform.
    `margin` is the smallest effect of interest, a share of 1. `placebos` are the variants without
    an emotion (`list_placebos`): each is a family of its own, and the others are compared with the
    first of them too.
    """
    cells = tuple(planned)
    groups = split_arms(count_by_task(frame, cells))
    measured = sum_columns(frame)
    lost = split_arms(count_by_task(count_losses(frame)))
    failed = split_arms(count_by_task(fail_losses(frame), cells))
    conforming: dict[Group, dict[str, Arm]] | None = None
    if per_protocol is not None:
        kept = frame[per_protocol].fillna(False).to_numpy(dtype=bool)
        conforming = split_arms(count_by_task(frame[kept]))
    names = dict.fromkeys([cell.variant for cell in cells])
    order = list(variants) if variants is not None else _order(names, groups, baseline)
    found = [
        _estimate_group(
            key,
            {name: group[name] for name in order if name in group},
            baseline,
            measured,
            lost.get(key, {}),
            failed[key],
            None if conforming is None else conforming.get(key, {}),
            margin,
            placebos,
        )
        for key, group in groups.items()
    ]
    found = _decide_over_all(found, margin, placebos)
    others = [name for name in order if name != baseline]
    return Findings(
        tuple(found),
        pool_groups(groups, baseline, others, margin, placebos),
        tuple(compare_assistants(groups, order)),
        tuple(compare_effects(groups, baseline, others)),
    )


def list_placebos(sweep: Sweep) -> list[str]:
    """Return the variants that add a text without an emotion."""
    return [
        name
        for name, each in sweep.variants.items()
        if each.text and (each.judged_as or name) in (NEUTRAL, PLACEBO)
    ]


def _order(
    planned: Iterable[str], groups: Mapping[Group, Mapping[str, Arm]], baseline: str
) -> list[str]:
    names = dict.fromkeys([*planned, *(name for group in groups.values() for name in group)])
    return [*([baseline] if baseline in names else []), *(n for n in names if n != baseline)]


def _estimate_group(
    key: Group,
    group: Mapping[str, Arm],
    baseline: str,
    measured: Columns,
    lost: Mapping[str, Arm],
    failed: Mapping[str, Arm],
    conforming: Mapping[str, Arm] | None,
    margin: float,
    placebos: Sequence[str],
) -> GroupFinding:
    """`lost` has the share of first attempts that were lost in the place of rewards, `failed` the
    rewards with lost first attempts as failures."""
    treated = [name for name in group if name != baseline]
    largest = max((int(arm.n.max(initial=0)) for arm in group.values()), default=0)
    largest = min(largest, MOST_K)
    odds = fit_odds_ratios(group, baseline, treated)
    held = measured.get(key, {})
    contrasts = _adjust_contrasts(
        {
            name: Contrast(
                baseline,
                variant_difference({key: group}, name, baseline, bootstrap=True),
                UNDECIDED,
                UNDECIDED,
                _compare_with_placebo({key: group}, name, placebos),
                *paired_means({key: group}, name, baseline),
                sensitivity=_compute_sensitivity(group, failed, name, baseline),
                lost=_compare_losses(lost, name, baseline),
                odds_ratio=odds[name],
                outcomes=_explore(held, name, baseline, SCORED_OUTCOMES),
                mediators=_explore(held, name, baseline, tuple(MEDIATORS)),
                pass_k=tuple(
                    Exploratory(f"pass^{k}", pass_k_difference({key: group}, name, baseline, k))
                    for k in range(2, largest + 1)
                ),
                per_protocol=None
                if conforming is None
                else _compare_per_protocol(key, conforming, name, baseline),
            )
            for name in treated
        },
        margin,
        placebos,
    )
    found = [
        VariantFinding(
            variant=name,
            mean=mean_reward(f"mean reward, {name}", arm),
            pass_k=pass_k_curve(name, arm.successes, arm.n, range(1, largest + 1)),
            outcomes=_estimate_outcome_rates(name, arm, held.get(name, {})),
            mediators=_estimate_mediator_means(name, held.get(name, {})),
            lost=_estimate_losses(name, lost.get(name)),
            contrast=contrasts.get(name),
        )
        for name, arm in group.items()
    ]
    return GroupFinding(*key, baseline=baseline, variants=tuple(found))


def pool_groups(
    groups: Groups,
    baseline: str,
    variants: Sequence[str],
    margin: float,
    placebos: Sequence[str] = (),
) -> tuple[PooledFinding, ...]:
    """Return each variant against the baseline over all groups that have both."""
    names = [
        name
        for name in variants
        if any(name in group and baseline in group for group in groups.values())
    ]
    found = {name: variant_difference(groups, name, baseline) for name in names}
    decisions = _decide_by_variant(found, margin, placebos)
    placebo = _adjust_to_placebo(
        {name: _compare_with_placebo(groups, name, placebos) for name in names}
    )
    return tuple(
        PooledFinding(
            name,
            sum(name in group and baseline in group for group in groups.values()),
            *paired_means(groups, name, baseline),
            adjust(found[name], decisions[name]),
            decisions[name],
            placebo[name],
        )
        for name in names
    )


def _compare_with_placebo(groups: Groups, name: str, placebos: Sequence[str]) -> Difference | None:
    """Return the difference from the first placebo; None for placebos and where there is none."""
    if not placebos or name in placebos:
        return None
    some = any(name in group and placebos[0] in group for group in groups.values())
    return variant_difference(groups, name, placebos[0]) if some else None


def _adjust_to_placebo(found: Mapping[str, Difference | None]) -> dict[str, Difference | None]:
    """Adjust the differences from placebo by Holm over the variants."""
    known = {name: each for name, each in found.items() if each is not None}
    adjusted = holm([each.p_permutation for each in known.values()])
    how = f"Holm over {pluralise(len(known), 'variant')}"
    result = dict(found)
    for (name, each), p in zip(known.items(), adjusted, strict=True):
        result[name] = replace(each, p_adjusted=p, adjustment=how)
    return result


def _split_family(variants: Iterable[str], placebos: Sequence[str]) -> list[list[str]]:
    """Return the family of the variants, and each placebo alone: a longer prompt is a control
    condition, and takes no place among the emotions."""
    names = list(variants)
    alone = [[name] for name in names if name in placebos]
    return [[name for name in names if name not in placebos], *alone]


def _decide_by_variant(
    found: Mapping[str, Difference], margin: float, placebos: Sequence[str]
) -> dict[str, Decision]:
    decisions: dict[str, Decision] = {}
    for family in _split_family(found, placebos):
        what = pluralise(len(family), "variant")
        decided = decide([found[name] for name in family], margin, what)
        decisions |= zip(family, decided, strict=True)
    return decisions


def _decide_over_all(
    groups: list[GroupFinding], margin: float, placebos: Sequence[str]
) -> list[GroupFinding]:
    """Return the groups with what may be said over all of them."""
    found = {
        (group.key, each.variant): each.contrast.difference
        for group in groups
        for each in group.variants
        if each.contrast is not None
    }
    names = list(dict.fromkeys(variant for _, variant in found))
    decisions: dict[tuple[Group, str], Decision] = {}
    for family in _split_family(names, placebos):
        keys = [key for key in found if key[1] in family]
        among = pluralise(len({group for group, _ in keys}), "group")
        what = (
            f"{pluralise(len(keys), 'comparison')} ({pluralise(len(family), 'variant')}, {among})"
        )
        decided = decide([found[key] for key in keys], margin, what)
        decisions |= zip(keys, decided, strict=True)
    return [
        replace(
            group,
            variants=tuple(
                replace(
                    each,
                    contrast=replace(each.contrast, overall=decisions[group.key, each.variant]),
                )
                if each.contrast
                else each
                for each in group.variants
            ),
        )
        for group in groups
    ]


def _adjust_contrasts(
    contrasts: dict[str, Contrast], margin: float, placebos: Sequence[str]
) -> dict[str, Contrast]:
    """Adjust confirmatory p's by Holm over the variants; exploratory ones by Benjamini-Hochberg
    over each of a group's tables of outcomes, mediators and pass^k."""
    decisions = _decide_by_variant(
        {name: each.difference for name, each in contrasts.items()}, margin, placebos
    )
    placebo = _adjust_to_placebo({name: each.over_placebo for name, each in contrasts.items()})
    result = {
        name: replace(
            each,
            difference=adjust(each.difference, decisions[name]),
            decision=decisions[name],
            over_placebo=placebo[name],
            sensitivity=mark_reversals(each.difference, each.sensitivity),
        )
        for name, each in contrasts.items()
    }
    outcomes, mediators, passes = (
        _adjust_exploratory(tables, what)
        for what, tables in (
            ("outcomes", {name: each.outcomes for name, each in result.items()}),
            ("mediators", {name: each.mediators for name, each in result.items()}),
            ("pass^k", {name: each.pass_k for name, each in result.items()}),
        )
    )
    return {
        name: replace(each, outcomes=outcomes[name], mediators=mediators[name], pass_k=passes[name])
        for name, each in result.items()
    }


def _adjust_exploratory(
    table: Mapping[str, tuple[Exploratory, ...]], what: str
) -> dict[str, tuple[Exploratory, ...]]:
    """Adjust by Benjamini-Hochberg over all of a table, by variant."""
    items = [item for found in table.values() for item in found]
    how = f"Benjamini-Hochberg over {len(items)} differences in {what}, exploratory"
    adjusted = iter(benjamini_hochberg([item.difference.p_permutation for item in items]))
    return {
        name: tuple(
            replace(
                item,
                difference=replace(item.difference, p_adjusted=next(adjusted), adjustment=how),
            )
            for item in found
        )
        for name, found in table.items()
    }


def _compute_sensitivity(
    group: Mapping[str, Arm], failed: Mapping[str, Arm], name: str, baseline: str
) -> tuple[Sensitivity, ...]:
    if baseline not in group:
        return ()
    what = f"difference in mean reward, {name} minus {baseline}"
    return (
        *compare_missing(what, group[name], group[baseline]),
        compare_lost(what, failed[name], failed[baseline]),
    )


def _compare_losses(lost: Mapping[str, Arm], name: str, baseline: str) -> Difference:
    what = f"difference in the share of first attempts lost, {name} minus {baseline}"
    if name not in lost or baseline not in lost:
        lacking = name if name not in lost else baseline
        return make_undefined(what, f"no conversation of {lacking} was begun")
    sides = {side: (lost[side].tasks, lost[side].means) for side in (name, baseline)}
    rows, left_out = align_by_task(sides, name, baseline)
    return paired_difference(what, rows[0] - rows[1], left_out=left_out, bootstrap=False)


def _estimate_losses(name: str, arm: Arm | None) -> Mean:
    none = np.empty(0, np.int64)
    events, begun = (arm.successes, arm.n) if arm is not None else (none, none)
    label = f"share of first attempts lost, {name}"
    return outcome_rate(label, events.astype(np.float64), begun)


def _compare_per_protocol(
    key: Group, conforming: Mapping[str, Arm], name: str, baseline: str
) -> Difference:
    if name not in conforming or baseline not in conforming:
        lacking = name if name not in conforming else baseline
        what = f"difference in mean reward, {name} minus {baseline}, per protocol"
        return make_undefined(what, f"no conforming episode of {lacking}")
    found = variant_difference({key: conforming}, name, baseline, bootstrap=True)
    return replace(
        found, label=f"{found.label}, per protocol", notes=(*found.notes, POST_TREATMENT)
    )


def _explore(
    held: Mapping[str, Mapping[str, Sums]], name: str, baseline: str, names: Sequence[str]
) -> tuple[Exploratory, ...]:
    """Return differences per task in each column that both sides have."""
    found = []
    for column in names:
        sides = {side: held.get(side, {}).get(column) for side in (name, baseline)}
        values = {
            side: (tasks, divide(total, n))
            for side, item in sides.items()
            if item is not None
            for tasks, total, n in [item]
        }
        if len(values) < 2 or not all(tasks.size for tasks, _ in values.values()):
            continue
        rows, left_out = align_by_task(values, name, baseline)
        is_outcome = column in SCORED_OUTCOMES
        what = f"share of {column}" if is_outcome else f"mean {MEDIATORS[column]}"
        difference = paired_difference(
            f"difference in {what}, {name} minus {baseline}, {describe_size(rows.shape[1], ())}, "
            "95 % interval clustered by task",
            rows[0] - rows[1],
            left_out=left_out,
            bounds=(-1.0, 1.0) if is_outcome else None,
            bootstrap=False,
        )
        found.append(Exploratory(column, difference))
    return tuple(found)


def _estimate_outcome_rates(name: str, arm: Arm, held: Mapping[str, Sums]) -> dict[str, Mean]:
    found = {}
    for outcome in SCORED_OUTCOMES:
        if outcome in held:
            _, events, n = held[outcome]
            found[outcome] = outcome_rate(f"share of {outcome}, {name}", events, n)
    attempted = arm.n + arm.missing
    some = attempted > 0
    found[Outcome.INFRA_ERROR] = outcome_rate(
        f"share of missing episodes, {name}",
        arm.missing[some].astype(np.float64),
        attempted[some],
    )
    return found


def _estimate_mediator_means(name: str, held: Mapping[str, Sums]) -> tuple[MediatorMean, ...]:
    found = []
    for column, what in MEDIATORS.items():
        if column not in held:
            continue
        _, total, n = held[column]
        episodes = int(n.sum())
        value = float(total.sum()) / episodes if episodes else None
        label = f"mean {what} per conversation, {name}, {pluralise(episodes, 'conversation')}"
        found.append(MediatorMean(label, column, value, episodes))
    return tuple(found)
