"""Assistants compared, and whether a variant's effect differs between them.

All of it is paired by task within one (environment, agent strategy): for each task the difference
of two assistants, or the difference of their differences from control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from emobench.analysis.stats.estimates import Difference, size
from emobench.analysis.stats.multiplicity import benjamini_hochberg
from emobench.analysis.stats.paired import paired_difference
from emobench.analysis.stats.units import Arm, shared
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


def comparisons(
    groups: Mapping[Group, Mapping[str, Arm]], variants: Sequence[str]
) -> list[AssistantComparison]:
    """First minus second assistant under each variant, adjusted over all of one environment and
    agent strategy by Benjamini-Hochberg."""
    found = []
    for env, strategy, first, second in _pairs(groups):
        sides = [groups[Group(env, strategy, name)] for name in (first, second)]
        for variant in variants:
            if not all(variant in side for side in sides):
                continue
            values = {
                name: (side[variant].tasks, side[variant].means)
                for name, side in zip((first, second), sides, strict=True)
            }
            rows, left_out = shared(values, first, second)
            label = (
                f"difference in mean reward, {first} minus {second}, {variant} users, "
                f"{env}/{strategy}, {_size(rows.shape[1], [side[variant] for side in sides])}, "
                "95 % interval clustered by task"
            )
            difference = paired_difference(label, rows[0] - rows[1], left_out=left_out)
            found.append(AssistantComparison(env, strategy, first, second, variant, difference))
    return _adjusted(found)


def interactions(
    groups: Mapping[Group, Mapping[str, Arm]], baseline: str, variants: Sequence[str]
) -> list[AssistantComparison]:
    """(variant minus baseline with the first assistant) minus (the same with the second)."""
    found = []
    for env, strategy, first, second in _pairs(groups):
        sides = {name: groups[Group(env, strategy, name)] for name in (first, second)}
        for variant in variants:
            if not all(variant in side and baseline in side for side in sides.values()):
                continue
            four = {
                f"{name} {which}": side[which]
                for name, side in sides.items()
                for which in (variant, baseline)
            }
            values = {name: (arm.tasks, arm.means) for name, arm in four.items()}
            rows, left_out = shared(values, *values)
            label = (
                f"difference in the effect of {variant} on mean reward, {first} minus {second}, "
                f"{env}/{strategy}, {_size(rows.shape[1], list(four.values()))}, "
                "95 % interval clustered by task"
            )
            gaps = (rows[0] - rows[1]) - (rows[2] - rows[3])
            difference = paired_difference(
                label, gaps, left_out=left_out, bounds=INTERACTION_BOUNDS
            )
            found.append(AssistantComparison(env, strategy, first, second, variant, difference))
    return _adjusted(found)


def _pairs(groups: Mapping[Group, Mapping[str, Arm]]) -> list[tuple[str, str, str, str]]:
    by_setting: dict[tuple[str, str], list[str]] = {}
    for env, strategy, assistant in groups:
        by_setting.setdefault((env, strategy), []).append(assistant)
    return [
        (*setting, first, second)
        for setting, assistants in by_setting.items()
        for first, second in combinations(assistants, 2)
    ]


def _size(tasks: int, arms: Sequence[Arm]) -> str:
    return size(tasks, [count for arm in arms for count in arm.n.tolist()])


def _adjusted(found: list[AssistantComparison]) -> list[AssistantComparison]:
    """Benjamini-Hochberg over the comparisons of one environment and agent strategy."""
    result = list(found)
    for setting in {(item.env, item.agent_strategy) for item in found}:
        places = [i for i, item in enumerate(found) if (item.env, item.agent_strategy) == setting]
        adjusted = benjamini_hochberg([found[i].difference.p_permutation for i in places])
        how = f"Benjamini-Hochberg over {len(places)} comparisons, exploratory"
        for i, p in zip(places, adjusted, strict=True):
            difference = replace(found[i].difference, p_adjusted=p, adjustment=how)
            result[i] = replace(found[i], difference=difference)
    return result
