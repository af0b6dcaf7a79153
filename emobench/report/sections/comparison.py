"""Assistants beside each other, and whether a variant's effect differs between them."""

from __future__ import annotations

from collections.abc import Sequence

from emobench.analysis.gates import labels
from emobench.analysis.stats.interaction import AssistantComparison
from emobench.core.outcomes import Condition
from emobench.report.blocks import Block, Cell, Head, Section, Table, heads
from emobench.report.figures.forest import Dot, forest, symmetric_axis
from emobench.report.numbers import DAGGER, bounds, p_value, signed
from emobench.report.scene import Figure
from emobench.report.sections.common import difference_columns, short_labels
from emobench.report.sections.group import effect_text
from emobench.report.study import Study

MOST_DOTS = 60
"""Rows of a figure; of more there is only the table."""


def comparison_section(study: Study) -> Section | None:
    """None with one assistant: there is nothing to compare."""
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
                blocks.append(_figure(found, identifier, what))
            blocks.append(_table(study, found, identifier, what))
            parts.append(Section(identifier, title, tuple(blocks)))
    return Section("comparison", "Assistants compared", (), tuple(parts))


def _figure(found: Sequence[AssistantComparison], name: str, what: str) -> Figure:
    dots: list[Dot] = []
    heading = ""
    for each in found:
        pair = f"{each.first} minus {each.second}, {each.env} / {each.agent_strategy}"
        if pair != heading:
            dots.append(Dot(pair, heading=True))
            heading = pair
        gap = each.difference
        caption = f"{gap.label}: {signed(gap.value)} {bounds(gap.interval, True)}"
        dots.append(Dot(each.variant, gap.value, gap.interval, effect_text(gap), caption=caption))
    return forest(
        name,
        what,
        dots,
        symmetric_axis("difference, paired by task", dots),
        caption=f"{what}; paired by task, 95 % intervals clustered by task. Exploratory.",
    )


def _marks(study: Study, each: AssistantComparison) -> str:
    """The gates that the variant does not pass with either assistant."""
    conditions = [
        Condition(each.env, each.agent_strategy, assistant, each.variant)
        for assistant in (each.first, each.second)
    ]
    return short_labels(
        mark for condition in conditions for mark in labels(study.checks.gates, condition)
    )


def _table(study: Study, found: Sequence[AssistantComparison], name: str, what: str) -> Table:
    return Table(
        name,
        f"{what}; paired by task, 95 % intervals clustered by task.",
        (
            *(Head(name, numeric=False) for name in ("Assistants", "Environment", "Strategy")),
            *heads("Variant", "Difference", "p adjusted", "Tasks"),
        ),
        tuple(
            (
                Cell(f"{each.first} minus {each.second}"),
                Cell(each.env),
                Cell(each.agent_strategy),
                Cell(each.variant, _marks(study, each) if name == "interaction" else ""),
                Cell(
                    signed(each.difference.value),
                    bounds(each.difference.interval, True) or each.difference.reason,
                    each.difference.label,
                    mark=DAGGER if each.difference.notes else "",
                ),
                Cell(p_value(each.difference.p_adjusted), title=each.difference.adjustment),
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
                **difference_columns(each.difference),
            }
            for each in found
        ),
        folded=len(found) > 2 * MOST_DOTS,
    )
