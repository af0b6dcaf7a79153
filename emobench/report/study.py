"""All that a report is made of: the run, its statistics, its checks and its conversations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emobench.analysis.assessment import Checks, assess_collected, conforms
from emobench.analysis.effects import effects
from emobench.analysis.findings import Findings, GroupFinding
from emobench.analysis.gates import GateResult, Label, labels
from emobench.analysis.stats.units import Arm, arms, units
from emobench.analysis.transcript.conversations import ConversationTable, Tally, seen
from emobench.analysis.transcript.dialogue import Dialogue, chosen_pairs, dialogue_of
from emobench.analysis.transcript.fidelity import EpisodeFidelity
from emobench.benchmarks.recorded_task import task_of
from emobench.core.outcomes import CONTROL, Condition, Group, Outcome
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.store.labels import Answer, read_answers
from emobench.store.lines import parse
from emobench.tables.run_results import CellResult, Collected, EpisodeRecord
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
        names = dict.fromkeys(cell.variant for cell in self.cells)
        return sorted(names, key=lambda name: name != CONTROL)

    def condition(self, group: GroupFinding, variant: str) -> Condition:
        return group.key.condition(variant)

    def gates(self, group: GroupFinding, variant: str) -> tuple[GateResult, ...]:
        condition = self.condition(group, variant)
        return tuple(each for each in self.checks.gates if each.condition == condition)

    def labels(self, group: GroupFinding, variant: str) -> tuple[Label, ...]:
        """What has to stand beside a variant's effect."""
        return labels(self.checks.gates, self.condition(group, variant))


def build_study(collected: Collected) -> Study:
    """Reads the table of episodes and each conversation once, or those of a sample.

    Raises InvalidInput where rewards are none or the runs do not belong together, OSError where a
    file went away.
    """
    path = collected.run_dir.path
    tables = load_tables(path)
    sample = sample_size(collected)
    tally = Tally()
    assessment = assess_collected(
        collected,
        sample=sample,
        dialogues=_dialogues(collected, sample, tally),
        answers=_answers(path),
    )
    frame = tables.episodes
    conforming = None
    if sample is None and assessment.episodes:
        frame, conforming = _with_protocol(frame, assessment.episodes), CONFORMS
    variants = list(dict.fromkeys(cell.variant for cell in collected.plan.cells))
    variants.sort(key=lambda name: name != CONTROL)
    texts = {name: each.text for name, each in collected.plan.sweep.variants.items()}
    return Study(
        collected=collected,
        findings=effects(frame, planned=collected.plan.cells, per_protocol=conforming),
        checks=assessment.checks,
        arms=arms(units(frame, collected.plan.cells)),
        talk=tally.table(variants, texts),
        sample=sample,
        left_out=dict(tables.summary["left_out"]),
        prompts=_prompts(frame),
        runs=tuple(tables.summary["runs"]) if (path / SUMMARY_FILE).exists() else (),
    )


def sample_size(collected: Collected) -> int | None:
    """Conversations to read of each condition, so that MOST_READ are in all; None: every one."""
    there = sum(len(result.file.episodes) for result in collected.cells)
    if there <= MOST_READ:
        return None
    cells = [result.cell for result in collected.cells]
    return max(1, MOST_READ // len({cell.condition for cell in cells}))


def _dialogues(collected: Collected, sample: int | None, tally: Tally) -> Iterator[Dialogue]:
    """The conversations that the checks look at; on the way each is tallied."""
    plan = collected.plan
    chosen = chosen_pairs(plan.sweep, sample)
    for result in collected.cells:
        cell = result.cell
        group = cell.group
        pairs = chosen[cell.env]
        records = [r for r in result.file.episodes if (r.task_id, cell.trial) in pairs]
        for record, line in _lines(result, records):
            tally.add(group, cell.variant, record.task_id, seen(line, task_of(line, plan)))
            if record.outcome != Outcome.INFRA_ERROR:
                yield dialogue_of(line)


def _lines(
    result: CellResult, records: list[EpisodeRecord]
) -> Iterator[tuple[EpisodeRecord, dict[str, Any]]]:
    if not records:
        return
    with result.file.path.open("rb") as stream:
        for record in records:
            stream.seek(record.offset)
            line = parse(stream.read(record.length))
            if isinstance(line, dict):
                yield record, line


def _answers(path: Path) -> dict[str, Answer]:
    """The judge's answers of a run, or of all runs behind a collected folder."""
    found = read_answers(RunDir(path).judge_answers)
    if (path / SUMMARY_FILE).exists():
        for run in read_summary(path)["runs"]:
            found = {**read_answers(RunDir(path / run["path"]).judge_answers), **found}
    return found


def _prompts(frame: pandas.DataFrame) -> tuple[Prompts, ...]:
    """By environment and variant, in the order of the frame."""
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
    """The frame with a column that says which episodes conform to the protocol."""
    kept = {
        (*each.condition.group, each.condition.variant, each.trial, each.task_id): conforms(each)
        for each in episodes
    }
    names = ("env", "agent_strategy", "assistant", "variant")
    columns = [frame[name].astype(str) for name in names]
    keys = zip(*columns, frame["trial"], frame["task_id"], strict=True)
    return frame.assign(**{CONFORMS: [kept.get(key, False) for key in keys]})
