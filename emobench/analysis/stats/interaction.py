"""Assistants compared, and whether a variant's effect differs between them.

All of it is paired by task within one (environment, agent strategy): for each task the difference
of two assistants, or the difference of their differences from control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from emobench.analysis.stats.estimates import Difference, describe_size
from emobench.analysis.stats.means import CLUSTERED
from emobench.analysis.stats.multiplicity import benjamini_hochberg
from emobench.analysis.stats.paired import REWARD_BOUNDS, paired_difference
from emobench.analysis.stats.units import Arm, align_by_task
from emobench.core.outcomes import Group

INTERACTION_BOUNDS = (-2.0, 2.0)


@dataclass(frozen=True)
class AssistantComparison:
    """Two assistants under the same conditions. Exploratory."""

    env: str
    agent_strategy: str
    first: str
    second: str
    variant: str
    """The condition; for an interaction the one whose effect is compared."""
    difference: Difference


def compare_assistants(
    groups: Mapping[Group, Mapping[str, Arm]], variants: Sequence[str]
) -> list[AssistantComparison]:
    """Return first minus second assistant under each variant, adjusted over all of one environment
    and agent strategy by Benjamini-Hochberg."""
    return _compare(
        groups,
        [(variant,) for variant in variants],
        "difference in mean reward, {first} minus {second}, {variant} users",
        REWARD_BOUNDS,
    )


def compare_effects(
    groups: Mapping[Group, Mapping[str, Arm]], baseline: str, variants: Sequence[str]
) -> list[AssistantComparison]:
    """Return (variant minus baseline with the first assistant) minus (the same with the second)."""
    return _compare(
        groups,
        [(variant, baseline) for variant in variants],
        "difference in the effect of {variant} on mean reward, {first} minus {second}",
        INTERACTION_BOUNDS,
    )


def _compare(
    groups: Mapping[Group, Mapping[str, Arm]],
    conditions: Sequence[tuple[str, ...]],
    what: str,
    bounds: tuple[float, float],
) -> list[AssistantComparison]:
    """Compare by pair of assistants and condition: (variant,), or (variant, baseline) whose
    difference is compared."""
    found = []
    for env, strategy, first, second in _list_pairs(groups):
        sides = {name: groups[Group(env, strategy, name)] for name in (first, second)}
        for names in conditions:
            if not all(name in side for side in sides.values() for name in names):
                continue
            held = {f"{who} {name}": side[name] for who, side in sides.items() for name in names}
            values = {key: (arm.tasks, arm.means) for key, arm in held.items()}
            rows, left_out = align_by_task(values, *values)
            one, other = (rows[: len(names)], rows[len(names) :])
            gaps = (
                one[0] - other[0] if len(names) == 1 else (one[0] - one[1]) - (other[0] - other[1])
            )
            trials = [count for arm in held.values() for count in arm.n.tolist()]
            label = (
                f"{what.format(first=first, second=second, variant=names[0])}, {env}/{strategy}, "
                f"{describe_size(gaps.size, trials)}, {CLUSTERED}"
            )
            difference = paired_difference(label, gaps, left_out=left_out, bounds=bounds)
            found.append(AssistantComparison(env, strategy, first, second, names[0], difference))
    return _adjust(found)


def _list_pairs(groups: Mapping[Group, Mapping[str, Arm]]) -> list[tuple[str, str, str, str]]:
    by_setting: dict[tuple[str, str], list[str]] = {}
    for env, strategy, assistant in groups:
        by_setting.setdefault((env, strategy), []).append(assistant)
    return [
        (*setting, first, second)
        for setting, assistants in by_setting.items()
        for first, second in combinations(assistants, 2)
    ]


def _adjust(found: list[AssistantComparison]) -> list[AssistantComparison]:
    """Adjust by Benjamini-Hochberg over the comparisons of one environment and agent strategy."""
    result = list(found)
    for setting in {(item.env, item.agent_strategy) for item in found}:
        places = [i for i, item in enumerate(found) if (item.env, item.agent_strategy) == setting]
        adjusted = benjamini_hochberg([found[i].difference.p_permutation for i in places])
        how = f"Benjamini-Hochberg over {len(places)} comparisons, exploratory"
        for i, p in zip(places, adjusted, strict=True):
            difference = replace(found[i].difference, p_adjusted=p, adjustment=how)
            result[i] = replace(found[i], difference=difference)
    return result
