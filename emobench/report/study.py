"""All that a report is made of: the run, its statistics, its checks and its conversations."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emobench.analysis.assessment import Assessor, Checks, conforms
from emobench.analysis.effects import Findings, GroupFinding, effects
from emobench.analysis.gates import Label, find_labels
from emobench.analysis.pooled import variants_of
from emobench.analysis.stats.power import PowerVerdict, power_verdict
from emobench.analysis.stats.units import Arm, count_by_task, split_arms
from emobench.analysis.transcript.conversation import chosen_pairs, read_conversations
from emobench.analysis.transcript.fidelity import EpisodeFidelity
from emobench.analysis.transcript.tally import ConversationTable, Tally, summarise
from emobench.core.outcomes import Group, Outcome
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.report.library import Library, Limit, choose_units, list_units, make_redactor
from emobench.store.labels import Answer, read_answers
from emobench.tables.run_results import Collected, EpisodeSummary
from emobench.tables.table import SUMMARY_FILE, load_tables, read_summary

if TYPE_CHECKING:
    import pandas

MOST_READ = 10_000
"""Conversations whose text is looked at for patterns and checks; of more, a sample."""
CONFORMS = "conforms"


@dataclass(frozen=True)
class Prompts:
    """The whole system prompts that the user got in one environment and variant."""

    env: str
    variant: str
    tasks: int
    prompts: int
    """Different ones: as many as tasks, unless a task was prompted in several ways."""
    sha256: str
    """Of the lines 'task prompt_sha256', in order."""


@dataclass(frozen=True)
class Study:
    """Everything the sections show."""

    collected: Collected
    findings: Findings
    checks: Checks
    arms: Mapping[Group, Mapping[str, Arm]]
    """Rewards by task, of each group and variant."""
    talk: ConversationTable
    library: Library
    """The text that the page holds."""
    sample: int | None
    """Conversations of each variant in each group whose text was read; None: all of them."""
    left_out: Mapping[str, int]
    """Lines that no number is over, by reason."""
    prompts: tuple[Prompts, ...]
    runs: tuple[Mapping[str, Any], ...]
    """The runs behind a collected folder, as collected.json names them; empty for a run."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        return self.collected.plan.cells

    @property
    def variants(self) -> list[str]:
        """As planned, control first."""
        return variants_of(self.cells)

    @cached_property
    def power(self) -> PowerVerdict:
        """What the planned design can detect."""
        return power_verdict(self.cells, self.checks.thresholds.smallest_effect)

    def labels(self, group: GroupFinding, variant: str) -> tuple[Label, ...]:
        """Return what has to stand beside a variant's effect."""
        return find_labels(self.checks.gates, group.key.condition(variant))


def build_study(collected: Collected, limit: Limit | None = None) -> Study:
    """Read the table of episodes and, once, each conversation that is looked at: for its text in
    the page as `limit` allows, and for patterns and checks, or a sample for them.

    Raises InvalidInput where rewards are none or the runs do not belong together, OSError where a
    file went away.
    """
    path = collected.run_dir.path
    tables = load_tables(path, collected.texts)
    sets = list_units(collected.cells)
    redact = make_redactor(collected.run_dir)
    library = Library(choose_units(sets, limit or Limit()), collected.cells, redact)
    sample = sample_size(collected)
    tally = Tally()
    assessor = Assessor(collected, sample, _answers(path))
    chosen = chosen_pairs(collected.plan.sweep, sample)

    def sampled(cell: Cell, record: EpisodeSummary) -> bool:
        return (record.task_id, cell.trial) in chosen[cell.env]

    looked_at = (
        (collected.cells[place], record)
        for unit in sets
        for place, record in unit.members
        if sampled((result := collected.cells[place]).cell, record) or library.holds(result, record)
    )
    for result, record, conversation in read_conversations(
        collected.plan, looked_at, collected.texts
    ):
        cell = result.cell
        if sampled(cell, record):
            missing = record.outcome == Outcome.INFRA_ERROR
            fidelity = None if missing else assessor.add(conversation)
            summary = summarise(conversation, fidelity)
            tally.add(cell.group, cell.variant, record.task_id, summary)
        if library.holds(result, record):
            library.add(result, record, conversation)
    assessment = assessor.finish()
    frame = tables.episodes
    conforming = None
    if sample is None and assessment.episodes:
        frame, conforming = _with_protocol(frame, assessment.episodes), CONFORMS
    variants = variants_of(collected.plan.cells)
    texts = {name: each.text for name, each in collected.plan.sweep.variants.items()}
    return Study(
        collected=collected,
        findings=effects(frame, planned=collected.plan.cells, per_protocol=conforming),
        checks=assessment.checks,
        arms=split_arms(count_by_task(frame, collected.plan.cells)),
        talk=tally.table(variants, texts),
        library=library,
        sample=sample,
        left_out=dict(tables.summary["left_out"]),
        prompts=_prompts(frame),
        runs=tuple(tables.summary["runs"]) if (path / SUMMARY_FILE).exists() else (),
    )


def sample_size(collected: Collected) -> int | None:
    """Return how many conversations to read of each condition, so that MOST_READ are in all; None:
    every one."""
    there = sum(len(result.file.episodes) for result in collected.cells)
    if there <= MOST_READ:
        return None
    cells = [result.cell for result in collected.cells]
    return max(1, MOST_READ // len({cell.condition for cell in cells}))


def _answers(path: Path) -> dict[str, Answer]:
    """Return the judge's answers of a run, or of all runs behind a collected folder."""
    found = read_answers(RunDir(path).judge_answers)
    if (path / SUMMARY_FILE).exists():
        for run in read_summary(path)["runs"]:
            found = {**read_answers(RunDir(path / run["path"]).judge_answers), **found}
    return found


def _prompts(frame: pandas.DataFrame) -> tuple[Prompts, ...]:
    """Return them by environment and variant, in the order of the frame."""
    names = ["env", "variant", "task_id", "user_prompt_sha256"]
    known = frame[names].dropna().drop_duplicates().sort_values(["task_id", "user_prompt_sha256"])
    found: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for env, variant, task, sha256 in known.itertuples(index=False, name=None):
        found.setdefault((str(env), str(variant)), []).append((int(task), str(sha256)))
    return tuple(
        Prompts(
            env,
            variant,
            len({task for task, _ in pairs}),
            len({sha256 for _, sha256 in pairs}),
            hashlib.sha256("".join(f"{t} {sha256}\n" for t, sha256 in pairs).encode()).hexdigest(),
        )
        for (env, variant), pairs in sorted(found.items())
    )


def _with_protocol(
    frame: pandas.DataFrame, episodes: tuple[EpisodeFidelity, ...]
) -> pandas.DataFrame:
    """Return the frame with a column that says which episodes conform to the protocol."""
    kept = {
        (*each.condition.group, each.condition.variant, each.trial, each.task_id): conforms(each)
        for each in episodes
    }
    names = ("env", "agent_strategy", "assistant", "variant")
    columns = [frame[name].astype(str) for name in names]
    keys = zip(*columns, frame["trial"], frame["task_id"], strict=True)
    return frame.assign(**{CONFORMS: [kept.get(key, False) for key in keys]})
