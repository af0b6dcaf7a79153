"""All that a report is made of: the run, its statistics, its checks and its conversations."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emobench.analysis.assessment import Assessor, Checks, conforms
from emobench.analysis.effects import Findings, GroupFinding, estimate_effects, list_placebos
from emobench.analysis.gates import Label, find_labels
from emobench.analysis.planned_power import judge_power_of_study
from emobench.analysis.pooled import list_variants
from emobench.analysis.stats.power import PowerVerdict
from emobench.analysis.stats.units import Arm, count_by_task, split_arms
from emobench.analysis.transcript.conversation import choose_pairs, parse_conversation
from emobench.analysis.transcript.fidelity import EpisodeFidelity
from emobench.analysis.transcript.tally import ConversationTable, Tally, summarise
from emobench.config.current_plan import load_current_plan
from emobench.core.outcomes import Group, Outcome
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.report.library import Library, Limit, list_units
from emobench.store.calls import ROLES
from emobench.store.episodes import EpisodeRecord
from emobench.store.hosted_keys import hide_keys
from emobench.store.labels import Answer, read_answers
from emobench.tables.compatibility import open_compatible_runs
from emobench.tables.gather import (
    EpisodesInMemory,
    Stored,
    build_batch,
    without_garbage_collection,
)
from emobench.tables.run_results import CellRead, Collected, collect
from emobench.tables.table import SUMMARY_FILE, build_tables, load_tables, read_summary

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
class OddReplies:
    """Replies of a variant's conversations that a message was not made of as it came."""

    variant: str
    conversations: int
    user_think: int
    """The user's replies that reasoning was taken out of."""
    user_empty: int
    assistant_think: int
    assistant_empty: int


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
    odd_replies: tuple[OddReplies, ...]
    """Of the variants that have any."""
    runs: tuple[Mapping[str, Any], ...]
    """The runs behind a collected folder, as collected.json names them; empty for a run."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        return self.collected.plan.cells

    @property
    def variants(self) -> list[str]:
        """As planned, control first."""
        return list_variants(self.cells)

    @cached_property
    def power(self) -> PowerVerdict:
        """What the planned design can detect, on tasks as hard as its own control found them."""
        return judge_power_of_study(self.collected.plan, self.arms)

    def find_labels(self, group: GroupFinding, variant: str) -> tuple[Label, ...]:
        """Return what has to stand beside a variant's effect."""
        return find_labels(self.checks.gates, group.key.to_condition(variant))


def build_study(run_dir: RunDir, limit: Limit | None = None) -> Study:
    """Read a run, each of its episode files once: for the table of episodes, for the text in the
    page as `limit` allows, and for patterns and checks, or a sample for them.

    Raises InvalidInput where there is no plan, rewards are none or the runs do not belong together,
    OSError on a bad disk.
    """
    plan, path = load_current_plan(run_dir), run_dir.path
    hide_keys(run_dir)
    is_collection = (path / SUMMARY_FILE).exists()
    rows = None if is_collection else EpisodesInMemory(open_compatible_runs([path]))
    library = Library(limit or Limit())
    sample = choose_sample_size(plan)
    tally = Tally()
    assessor = Assessor(plan, _read_answers(path), sample)
    chosen = choose_pairs(plan.sweep, sample)
    settings = list(dict.fromkeys(cell.group for cell in plan.cells))
    places = {cell.number: place for place, cell in enumerate(plan.cells)}

    def take(block: Sequence[CellRead]) -> None:
        read = {places[each.result.cell.number]: each for each in block}
        records: dict[tuple[int, int], EpisodeRecord] = {}
        for place, each in read.items():
            file = each.result.file
            records.update(((place, record.task_id), record) for record in each.records)
            if rows is not None:
                where = zip(each.records, file.episodes, strict=True)
                lines = [Stored(record, at.offset, at.length) for record, at in where]
                rows.add(build_batch(rows.parts[place].files[0], lines, file.left_out))
        units = list_units(((place, each.result) for place, each in read.items()), settings)
        library.choose(units)
        for unit in units:
            held = library.holds(unit)
            for place, summary in unit.members:
                cell = plan.cells[place]
                sampled = (summary.task_id, cell.trial) in chosen[cell.env]
                if not (sampled or held):
                    continue
                record = records[place, summary.task_id]
                conversation = parse_conversation(record, plan.benchmark)
                if sampled:
                    missing = record.outcome is Outcome.INFRA_ERROR
                    fidelity = None if missing else assessor.add(conversation)
                    told = summarise(conversation, fidelity)
                    tally.add(cell.group, cell.variant, record.task_id, told)
                if held:
                    library.add(unit, place, summary, conversation)

    with without_garbage_collection():
        collected = collect(run_dir, plan, take)
    library.finish(collected.cells)
    assessment = assessor.finish(collected)
    tables = load_tables(path) if rows is None else build_tables(path, rows.finish())
    frame = tables.episodes
    conforming = None
    if sample is None and assessment.episodes:
        frame, conforming = _add_protocol(frame, assessment.episodes), CONFORMS
    variants = list_variants(collected.plan.cells)
    texts = {name: each.text for name, each in collected.plan.sweep.variants.items()}
    return Study(
        collected=collected,
        findings=estimate_effects(
            frame,
            planned=collected.plan.cells,
            per_protocol=conforming,
            margin=plan.sweep.gates.smallest_effect,
            placebos=list_placebos(plan.sweep),
        ),
        checks=assessment.checks,
        arms=split_arms(count_by_task(frame, collected.plan.cells)),
        talk=tally.build_table(variants, texts),
        library=library,
        sample=sample,
        left_out=dict(tables.summary["left_out"]),
        prompts=_collect_prompts(frame),
        odd_replies=_count_odd_replies(frame, variants),
        runs=tuple(tables.summary["runs"]) if is_collection else (),
    )


def choose_sample_size(plan: Plan) -> int | None:
    """Return how many conversations to read of each condition, so that MOST_READ are in all; None:
    every one."""
    if sum(len(cell.tasks) for cell in plan.cells) <= MOST_READ:
        return None
    return max(1, MOST_READ // len({cell.condition for cell in plan.cells}))


def _read_answers(path: Path) -> dict[str, Answer]:
    """Return the judge's answers of a run, or of all runs behind a collected folder."""
    found = read_answers(RunDir(path).judge_answers)
    if (path / SUMMARY_FILE).exists():
        for run in read_summary(path)["runs"]:
            found = {**read_answers(RunDir(path / run["path"]).judge_answers), **found}
    return found


def _count_odd_replies(frame: pandas.DataFrame, variants: Sequence[str]) -> tuple[OddReplies, ...]:
    kinds = [f"{role}_{kind}_replies" for role in ROLES for kind in ("think", "empty")]
    if not set(kinds) <= set(frame.columns):  # collected by an earlier version
        return ()
    sums = frame.groupby("variant", observed=True)[kinds].sum()
    sizes = frame["variant"].value_counts()
    counts = {str(name): row for name, *row in sums.itertuples(name=None)}
    return tuple(
        OddReplies(name, int(sizes[name]), *counts[name])
        for name in variants
        if any(counts.get(name, ()))
    )


def _collect_prompts(frame: pandas.DataFrame) -> tuple[Prompts, ...]:
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


def _add_protocol(
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
