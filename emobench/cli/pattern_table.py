"""The patterns by variant as lines for a terminal, and as data. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from emobench.analysis.stats.estimates import FEW as FEW_UNITS
from emobench.analysis.stats.estimates import FEW_DIFFER, FEW_TASKS
from emobench.analysis.stats.log_odds import WordDifference
from emobench.analysis.transcript.fault import INFRASTRUCTURE, PARTIES, UNDETERMINED
from emobench.analysis.transcript.tally import (
    ConversationTable,
    VariantFaults,
    VariantPattern,
    VariantWords,
)
from emobench.cli.terminal import Line, flat, pad, width, wrap

WORDS = 10
"""Words shown on each side."""
SURE = 1.96
"""Absolute z from which a word is shown."""
FEW = 5
"""Conversations below which a number is marked."""


def table_lines(table: ConversationTable, columns: int) -> Iterator[Line]:
    """Patterns, faults and words, with what they are means over."""
    yield from _about(table, columns)
    yield ()
    yield from _patterns(table)
    yield ()
    yield from _faults(table, columns)
    for words in table.words:
        yield ()
        yield from _words(words, columns)


def _about(table: ConversationTable, columns: int) -> Iterator[Line]:
    counts = ", ".join(
        f"{name} {table.conversations[name]:,}"
        + (f" (and {table.missing[name]} missing)" if table.missing[name] else "")
        for name in table.variants
    )
    text = f"Conversations by variant: {counts}."
    if len(table.groups) > 1:
        text += (
            f" {len(table.groups)} combinations of environment, strategy and assistant together: "
            "--env, --strategy and --assistant choose one."
        )
    text += (
        " Means over tasks; differences from control are paired by task, with the 95 % interval "
        "(Student t over tasks) and p adjusted over this whole table (exploratory)."
    )
    for line in wrap(text, columns):
        yield (("dim", line),)


def _patterns(table: ConversationTable) -> Iterator[Line]:
    names = max([*(width(name) for name in table.variants), 7])
    head = f"{'mean':>9}{'difference':>12}{'95 % interval':>21}{'adj. p':>9}{'tasks':>6}"
    yield (("bold", " " * (names + 2) + head),)
    size = len(table.variants)
    for start in range(0, len(table.patterns), size):
        rows = table.patterns[start : start + size]
        yield (("bold", rows[0].pattern.label),)
        for row in rows:
            yield (("", f"  {pad(row.variant, names)}{_pattern_cells(row)}"),)
    if any(map(_is_few, table.patterns)) or any(row.difference for row in table.patterns):
        text = f"~ mean: in fewer than {FEW} conversations; "
        text += f"interval: fewer than {FEW_UNITS} tasks differ"
        yield (("dim", text),)


def _is_few(row: VariantPattern) -> bool:
    return 0 < row.events < FEW


def _pattern_cells(row: VariantPattern) -> str:
    text = f"{('~' if _is_few(row) else '') + _number(row.mean):>9}"
    gap = row.difference
    if gap is None:
        return f"{text}{'':>42}{row.tasks:>6}"
    interval = "-"
    if gap.interval is not None:
        few = "~" if {FEW_TASKS, FEW_DIFFER} & set(gap.notes) else ""
        interval = f"{few}{_signed(gap.interval.low)} to {_signed(gap.interval.high)}"
    p = "-" if gap.p_adjusted is None else f"{gap.p_adjusted:.3f}"
    return f"{text}{_signed(gap.value):>12}{interval:>21}{p:>9}{gap.tasks:>6}"


def _faults(table: ConversationTable, columns: int) -> Iterator[Line]:
    """Variants by party, then the rules that spoke."""
    yield (("bold", "Who was at fault where the task was not solved"),)
    names = max(map(len, table.faults[0].parties)) + 2
    sizes = [max(9, width(each.variant) + 2) for each in table.faults]
    head = "".join(
        pad("", size - width(f.variant)) + f.variant
        for f, size in zip(table.faults, sizes, strict=True)
    )
    yield (("bold", f"  {' ' * names}{head}"),)
    rows: list[tuple[str, list[int]]] = [("unsolved", [each.unsolved for each in table.faults])]
    rows += [(party, [each.parties[party] for each in table.faults]) for party in PARTIES]
    for name, counts in rows:
        cells = "".join(f"{count:>{size},}" for count, size in zip(counts, sizes, strict=True))
        label = "missing" if name == INFRASTRUCTURE else name
        yield (("dim" if label == "missing" else "", f"  {label:<{names}}{cells}"),)
    for rule, found in _rules(table.faults).items():
        for line in wrap(f"{rule}: {', '.join(found)}", columns - 4):
            yield (("dim", f"    {line}"),)


def _rules(faults: Sequence[VariantFaults]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in faults:
        for (party, rule), count in row.rules.items():
            if party not in (INFRASTRUCTURE, UNDETERMINED):
                found.setdefault(f"{party}: {rule}", []).append(f"{row.variant} {count}")
    return dict(sorted(found.items()))


def _words(row: VariantWords, columns: int) -> Iterator[Line]:
    yield (("bold", f"Words of the user, {row.variant} against control"),)
    more = [each for each in row.differences if each.z > SURE][:WORDS]
    less = [each for each in reversed(row.differences) if each.z < -SURE][:WORDS]
    if not more and not less:
        yield (("", f"  no word with |z| above {SURE}"),)
        return
    for name, chosen in (("more", more), ("less", less)):
        for number, line in enumerate(wrap(_listed(chosen, row), columns - 8)):
            yield (("", f"  {name if number == 0 else '':<6}{line}"),)
    if any(each.word in row.in_prompt for each in (*more, *less)):
        text = "* in this variant's prompt, and in no other's"
        yield (("dim", f"  {text}"),)


def _listed(words: Sequence[WordDifference], row: VariantWords) -> str:
    """'furious* z 8.1 (40:0), ...': uses in the variant and in control."""
    return ", ".join(
        f"{flat(each.word)}{'*' if each.word in row.in_prompt else ''} z {each.z:.1f} "
        f"({each.count}:{each.reference_count})"
        for each in words
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"
