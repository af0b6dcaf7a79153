"""The report's sections in reading order, with figures and tables numbered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from emobench.report.blocks import Block, Section, Table, blocks_of
from emobench.report.scene import Figure
from emobench.report.sections.comparison import comparison_section
from emobench.report.sections.gates import gate_section, power_section
from emobench.report.sections.group import group_section
from emobench.report.sections.resources import cost_section
from emobench.report.sections.summary import overview_blocks
from emobench.report.sections.talk import talk_section
from emobench.report.sections.user import fidelity_section, manipulation_section
from emobench.report.study import Study

OPEN_GROUPS = 3
"""Of more groups the details are folded."""


def sections(study: Study) -> list[Section]:
    """All that is made of blocks; coverage, conversations and provenance have their own form."""
    groups = study.findings.groups
    found: list[Section] = []
    if len(groups) == 1:
        section = group_section(study, groups[0], "results", "")
        found.append(replace(section, title=f"Results: {section.title}"))
    else:
        parts = tuple(
            replace(
                group_section(study, group, f"group-{number}", f"g{number}-"),
                folded=len(groups) > OPEN_GROUPS,
            )
            for number, group in enumerate(groups, 1)
        )
        found.append(Section("results", "Results", tuple(overview_blocks(study)), parts))
    comparison = comparison_section(study)
    found += [comparison] if comparison else []
    trust = (manipulation_section(study), fidelity_section(study), power_section(study))
    gates = gate_section(study)
    found.append(Section("trust", "Can it be trusted?", (), (gates, *trust)))
    found += [talk_section(study), cost_section(study)]
    return found


def numbered(found: Sequence[Section]) -> Mapping[str, int]:
    """By 'figure-name' and 'table-name', each kind counted through the page; the table that holds
    a figure's own numbers has none."""
    numbers: dict[str, int] = {}
    counts = {"figure": 0, "table": 0}
    for block in blocks_of(found):
        if isinstance(block, Figure | Table) and not (isinstance(block, Table) and block.of):
            counts[block.kind] += 1
            numbers[f"{block.kind}-{block.name}"] = counts[block.kind]
    return numbers


def figures_of(blocks: Sequence[Block]) -> list[Figure]:
    return [block for block in blocks if isinstance(block, Figure)]


def tables_of(blocks: Sequence[Block]) -> list[Table]:
    return [block for block in blocks if isinstance(block, Table)]
