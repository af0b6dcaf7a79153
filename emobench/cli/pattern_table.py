"""The patterns by variant as lines for a terminal, and as data. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from emobench.analysis.stats.estimates import FEW as FEW_UNITS
from emobench.analysis.stats.estimates import FEW_DIFFER, FEW_TASKS
from emobench.analysis.stats.log_odds import WordDifference
from emobench.analysis.transcript.fault import INFRASTRUCTURE, PARTIES, UNDETERMINED
from emobench.analysis.transcript.tally import (
    FEW_CONVERSATIONS,
    ConversationTable,
    VariantFaults,
    VariantPattern,
    VariantWords,
)
from emobench.cli.terminal import make_table
from emobench.core.output import flatten

WORDS = 10
"""Words shown on each side."""
SURE = 1.96
"""Absolute z from which a word is shown."""


def render_table(found: ConversationTable) -> Iterator[RenderableType]:
    """Yield patterns, faults and words, with what they are means over."""
    yield Text(_describe_basis(found), "dim")
    yield ""
    yield _build_pattern_table(found)
    if any(row.is_rare or row.difference for row in found.patterns):
        text = f"~ mean: in fewer than {FEW_CONVERSATIONS} conversations; "
        yield Text(f"{text}interval: fewer than {FEW_UNITS} tasks differ", "dim")
    yield ""
    yield Text("Who was at fault where the task was not solved", "bold")
    yield _build_fault_table(found.faults)
    for rule, counts in _list_rules(found.faults).items():
        yield Text(flatten(f"{rule}: {', '.join(counts)}"), "dim")
    for words in found.words:
        yield ""
        yield from _render_words(words)


def _describe_basis(found: ConversationTable) -> str:
    counts = ", ".join(
        f"{name} {found.conversations[name]:,}"
        + (f" (and {found.missing[name]} missing)" if found.missing[name] else "")
        for name in found.variants
    )
    text = f"Conversations by variant: {counts}."
    if len(found.groups) > 1:
        text += (
            f" {len(found.groups)} combinations of environment, strategy and assistant together: "
            "--env, --strategy and --assistant choose one."
        )
    return text + (
        " Means over tasks; differences from control are paired by task, with the 95 % interval "
        "(Student t over tasks) and p adjusted over this whole table (exploratory)."
    )


def _build_pattern_table(found: ConversationTable) -> Table:
    rows: list[list[object]] = []
    for number, row in enumerate(found.patterns):
        if number % len(found.variants) == 0:
            rows.append([("bold", row.pattern.label), *[""] * 5])
        rows.append([f"  {row.variant}", *_build_pattern_row(row)])
    return make_table(("", "mean", "difference", "95 % interval", "adj. p", "tasks"), rows)


def _build_pattern_row(row: VariantPattern) -> list[object]:
    mean = ("~" if row.is_rare else "") + ("-" if row.mean is None else f"{row.mean:.2f}")
    gap = row.difference
    if gap is None:
        return [mean, "", "", "", row.tasks]
    interval = "-"
    if gap.interval is not None:
        few = "~" if {FEW_TASKS, FEW_DIFFER} & set(gap.notes) else ""
        interval = f"{few}{_format_signed(gap.interval.low)} to {_format_signed(gap.interval.high)}"
    p = "-" if gap.p_adjusted is None else f"{gap.p_adjusted:.3f}"
    return [mean, _format_signed(gap.value), interval, p, gap.tasks]


def _build_fault_table(faults: Sequence[VariantFaults]) -> Table:
    """Return the table of faults, variants by party."""
    rows: list[list[object]] = [["unsolved", *(f"{each.unsolved:,}" for each in faults)]]
    for party in PARTIES:
        style, name = ("dim", "missing") if party == INFRASTRUCTURE else ("", party)
        counts = [(style, f"{each.parties[party]:,}") for each in faults]
        rows.append([(style, name), *counts])
    return make_table(["", *(each.variant for each in faults)], rows)


def _list_rules(faults: Sequence[VariantFaults]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in faults:
        for (party, rule), count in row.rules.items():
            if party not in (INFRASTRUCTURE, UNDETERMINED):
                found.setdefault(f"{party}: {rule}", []).append(f"{row.variant} {count}")
    return dict(sorted(found.items()))


def _render_words(row: VariantWords) -> Iterator[RenderableType]:
    yield Text(f"Words of the user, {row.variant} against control", "bold")
    more = [each for each in row.differences if each.z > SURE][:WORDS]
    less = [each for each in reversed(row.differences) if each.z < -SURE][:WORDS]
    if not more and not less:
        yield f"no word with |z| above {SURE}"
        return
    for name, chosen in (("more", more), ("less", less)):
        if chosen:
            yield f"{name}: {_format_words(chosen, row)}"
    if any(each.word in row.in_prompt for each in (*more, *less)):
        yield Text("* in this variant's prompt, and in no other's", "dim")


def _format_words(words: Sequence[WordDifference], row: VariantWords) -> str:
    """Return 'furious* z 8.1 (40:0), ...': uses in the variant and in control."""
    return ", ".join(
        f"{flatten(each.word)}{'*' if each.word in row.in_prompt else ''} z {each.z:.1f} "
        f"({each.count}:{each.reference_count})"
        for each in words
    )


def _format_signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"
