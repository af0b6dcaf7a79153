"""How the conversations went: patterns, words that set a variant apart, who was at fault."""

from __future__ import annotations

from emobench.analysis.stats.log_odds import WordDifference
from emobench.analysis.transcript.fault import INFRASTRUCTURE, PARTIES
from emobench.analysis.transcript.tally import (
    FEW_CONVERSATIONS,
    ConversationTable,
    VariantPattern,
    VariantWords,
)
from emobench.core.wording import pluralise
from emobench.report.blocks import Block, Cell, Items, Remark, Scalar, Section, Table, make_heads
from emobench.report.numbers import (
    DAGGER,
    format_difference,
    format_number,
    format_p,
    format_percent,
)
from emobench.report.sections.common import build_difference_columns
from emobench.report.study import Study

SURE = 1.96
WORDS = 12
"""Shown on each side; the exports hold all."""


def build_talk_section(study: Study) -> Section:
    """Build the section over all groups together."""
    table, title = study.talk, "How the conversations went"
    if not any(table.conversations.values()):
        return Section("talk", title, (Remark("No conversation has a result yet."),))
    blocks: list[Block] = []
    read = sum(table.conversations.values()) + sum(table.missing.values())
    if study.sample is not None:
        blocks.append(
            Remark(
                f"This section, the check of fidelity and the markers rest on a sample of "
                f"{read:,} conversations ({study.sample:,} of each variant in each group, the same "
                "tasks and trials in all of them, drawn by the study's seed). Rewards and outcomes "
                "are over all.",
                "Sample.",
            )
        )
    if len(table.groups) > 1:
        blocks.append(
            Remark(
                f"{len(table.groups)} groups together; differences are formed within each, and a "
                "task met in several counts once."
            )
        )
    parts = (
        Section("patterns", "Patterns", (_build_pattern_table(table),)),
        _build_word_section(table),
        _build_fault_section(table),
    )
    return Section("talk", title, tuple(blocks), parts)


def _build_pattern_table(table: ConversationTable) -> Table:
    size = len(table.variants)
    rows: list[tuple[Cell, ...]] = []
    for start in range(0, len(table.patterns), size):
        found = table.patterns[start : start + size]
        rows.append((Cell(found[0].pattern.label), *map(_build_pattern_cell, found)))
    return Table(
        "patterns",
        "Patterns by variant: mean over tasks of the mean over a task's conversations; behind it "
        "the difference from control, paired by task, with its 95 % interval.",
        make_heads("Per conversation", *table.variants),
        tuple(rows),
        (
            f"{DAGGER} In fewer than {FEW_CONVERSATIONS} conversations. Bold: p below 0.05, "
            "adjusted by Benjamini and Hochberg over this table: exploratory, a pattern found "
            "here is a hypothesis.",
        ),
        tuple(
            {
                "variant": each.variant,
                "pattern": each.pattern.key,
                "label": each.label,
                "mean": each.mean,
                "tasks": each.tasks,
                "conversations": each.conversations,
                "events": each.events,
                **build_difference_columns(each.difference),
            }
            for each in table.patterns
        ),
    )


def _build_pattern_cell(each: VariantPattern) -> Cell:
    gap = each.difference
    mark = DAGGER if each.is_rare else ""
    text = format_percent(each.mean) if each.pattern.share else format_number(each.mean, None)
    if gap is None or gap.value is None:
        return Cell(text, title=each.label, mark=mark)
    sure = gap.p_adjusted is not None and gap.p_adjusted < 0.05
    scale = 100.0 if each.pattern.share else 1.0
    detail = format_difference(gap, None, scale=scale)
    title = f"{gap.label}; adjusted p {format_p(gap.p_adjusted)}"
    return Cell(text, detail, title, state="strong" if sure else "", mark=mark)


def _build_word_section(table: ConversationTable) -> Section:
    title, identifier = "Words that set a variant apart", "words"
    if not table.words:
        return Section(identifier, title, (Remark("There is no control to compare with."),))
    rows = []
    marked = False
    for each in table.words:
        more = [word for word in each.differences if word.z > SURE][:WORDS]
        less = [word for word in reversed(each.differences) if word.z < -SURE][:WORDS]
        marked = marked or any(word.word in each.in_prompt for word in (*more, *less))
        rows.append(
            (Cell(each.variant), Cell(_format_words(more, each)), Cell(_format_words(less, each)))
        )
    notes: tuple[str, ...] = (
        "The user's words against control's: log-odds ratio with an informative Dirichlet prior "
        "(Monroe, Colaresi and Quinn 2008); (uses in the variant : uses in control). z takes words "
        "as independent, which those of a conversation are not: it orders, it does not test.",
    )
    if marked:
        notes += (
            "* A word of this variant's prompt and of no other's: it may be the prompt repeated.",
        )
    found = Table(
        "words",
        f"Words that the simulated user says more or less often than control's, |z| above {SURE}, "
        "by z.",
        make_heads("Variant", "More", "Less"),
        tuple(rows),
        notes,
        tuple(_build_word_record(word, each) for each in table.words for word in each.differences),
        prose=True,
    )
    return Section(identifier, title, (found,))


def _format_words(words: list[WordDifference], row: VariantWords) -> str:
    if not words:
        return f"none with |z| above {SURE}"
    return ", ".join(
        f"{each.word}{'*' if each.word in row.in_prompt else ''} "
        f"({each.count}:{each.reference_count})"
        for each in words
    )


def _build_word_record(word: WordDifference, row: VariantWords) -> dict[str, Scalar]:
    return {
        "variant": row.variant,
        "label": row.label,
        "word": word.word,
        "log_odds": word.log_odds,
        "z": word.z,
        "count": word.count,
        "reference_count": word.reference_count,
        "conversations": word.conversations,
        "in_prompt": word.word in row.in_prompt,
    }


def _build_fault_section(table: ConversationTable) -> Section:
    title, identifier = "Who was at fault", "faults"
    parties = [party for party in PARTIES if party != INFRASTRUCTURE]
    rows = tuple(
        (
            Cell(each.variant),
            Cell(f"{each.unsolved:,}", f"of {each.conversations - each.parties[INFRASTRUCTURE]:,}"),
            *(
                Cell(
                    f"{each.parties[party]:,}",
                    format_percent(each.parties[party] / each.unsolved)
                    if each.parties[party]
                    else "",
                    mark=DAGGER if 0 < each.parties[party] < FEW_CONVERSATIONS else "",
                    state="" if each.parties[party] else "muted",
                )
                for party in parties
            ),
        )
        for each in table.faults
    )
    found = Table(
        "faults",
        "Who was at fault in conversations that did not solve their task, by rules that speak only "
        "where the records prove something; shares of the unsolved ones.",
        make_heads("Variant", "Unsolved", *parties),
        rows,
        (
            f"{DAGGER} Fewer than {FEW_CONVERSATIONS}. Undetermined is an answer, and probably "
            "agent is weaker than agent. Not all of it is an effect of the variant: compare with "
            "control's row.",
        ),
        tuple(
            {
                "variant": each.variant,
                "party": party,
                "rule": rule,
                "conversations": count,
                "unsolved": each.unsolved,
            }
            for each in table.faults
            for (party, rule), count in each.rules.items()
        ),
    )
    rules: dict[tuple[str, str], list[str]] = {}
    for each in table.faults:
        for (party, rule), count in each.rules.items():
            if party not in (INFRASTRUCTURE, "undetermined"):
                rules.setdefault((party, rule), []).append(f"{each.variant} {count}")
    blocks: list[Block] = [found]
    if rules:
        items = tuple(
            (f"{party}: {rule}", ", ".join(c)) for (party, rule), c in sorted(rules.items())
        )
        blocks.append(Items(items, f"Rules that spoke ({pluralise(len(items), 'rule')})"))
    return Section(identifier, title, tuple(blocks))
