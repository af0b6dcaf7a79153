"""All checks of a run: conversations' fidelity and markers, the judge's answers, the gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from emobench.analysis.gates import Coverage, GateResult, Verdict, decide_overall_verdict, evaluate
from emobench.analysis.judge.labels import hash_turn
from emobench.analysis.judge.manipulation import (
    Agreement,
    JudgedTurn,
    Manipulation,
    compare_judges,
    measure_manipulation,
)
from emobench.analysis.planned_power import judge_power_of_study
from emobench.analysis.stats.power import DesignPower
from emobench.analysis.stats.units import count_by_task, make_frame, split_arms
from emobench.analysis.transcript import fidelity, markers
from emobench.analysis.transcript.conversation import (
    Conversation,
    choose_pairs,
    read_conversations,
    select_with_result,
)
from emobench.analysis.transcript.fidelity import EpisodeFidelity, VariantFidelity, check_fidelity
from emobench.analysis.transcript.markers import Marked, VariantMarkers, mark_turns
from emobench.core.files import write_json
from emobench.core.gates import Gates
from emobench.core.outcomes import Condition, Group
from emobench.core.plan import Plan, list_declared_gates
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Sweep
from emobench.store.labels import Answer, Label, read_answers
from emobench.tables.run_results import Collected, collect

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Checks:
    """What `checks.json` holds."""

    schema_version: int
    run: str
    thresholds: Gates
    declared: str
    """When the plan was made, ISO 8601."""
    thresholds_declared: tuple[str, ...]
    """Those that stand in the sweep file, e.g. 'fidelity.conveyed'; the others are defaults."""
    thresholds_changed: str
    """When thresholds were last changed with results on disk; empty: never."""
    verdict: Verdict
    """failed if any gate failed, passed only if every one passed."""
    gates: tuple[GateResult, ...]
    coverage: tuple[Coverage, ...]
    fidelity: tuple[VariantFidelity, ...]
    slips: tuple[EpisodeFidelity, ...]
    """Conversations with anything invented or contradicted, an early stop, a flip or a leak."""
    markers_version: str
    markers: tuple[VariantMarkers, ...]
    judge: str | None
    """Model whose labels the manipulation gate goes by; None without a judge."""
    manipulation: tuple[Manipulation, ...]
    """By judge."""
    judges_agree: tuple[Agreement, ...]
    judged_sample: int | None
    """Conversations of each variant that the judge was meant to see; None: all."""
    sample: int | None
    """Conversations of each variant that were read; None: all."""
    settings_changed: tuple[str, ...] = ()
    """What the sweep file says otherwise than at the submission, and why it does not hold where it
    does not."""


@dataclass(frozen=True)
class Assessment:
    """The checks, and every conversation's record."""

    checks: Checks
    episodes: tuple[EpisodeFidelity, ...] = field(default=(), repr=False)


def conforms(record: EpisodeFidelity) -> bool:
    """Return whether, per protocol, the user said nothing that its task does not hold, and stayed
    the user."""
    return not (record.invented or record.contradicted or record.early_stop or record.role_flips)


def is_slip(record: EpisodeFidelity) -> bool:
    """Return whether a conversation is worth a look."""
    return not conforms(record) or record.think_leaks > 0


def assess(run_dir: RunDir, *, sample: int | None = None) -> Assessment:
    """Return every check of a run as it stands. Reads all transcripts once, or those of a `sample`
    of conversations of each variant. Raises InvalidInput without a plan."""
    return assess_collected(collect(run_dir), sample)


def assess_collected(collected: Collected, sample: int | None = None) -> Assessment:
    """Run `assess` for a run directory that is collected already."""
    answers = read_answers(collected.run_dir.judge_answers)
    assessor = Assessor(collected.plan, answers, sample)
    for *_, conversation in read_conversations(
        collected.plan, select_with_result(collected, sample)
    ):
        assessor.add(conversation)
    return assessor.finish(collected)


class _Seen(NamedTuple):
    """What is kept of a conversation while others go by."""

    fidelity: EpisodeFidelity
    marked: tuple[Marked, ...]
    labels: tuple[tuple[Label | None, ...], ...]
    """Of each judge, by turn."""
    turns: tuple[str, ...]
    """Kept only where several judges are to be compared."""


class Assessor:
    """Takes the conversations of a run one at a time, in any order, and makes its checks."""

    def __init__(
        self,
        plan: Plan,
        answers: Mapping[str, Answer],
        sample: int | None = None,
    ) -> None:
        """`sample` says which conversations will come; `answers` are the judge's."""
        self._plan = plan
        self._sample = sample
        self._judges = sorted({answer.model for answer in answers.values()})
        self._seen: list[_Seen] = []

        @lru_cache(maxsize=100_000)
        def label(model: str, text: str) -> Label | None:
            answer = answers.get(hash_turn(text, model))
            return answer.label if answer else None

        self._label = label

    def add(self, conversation: Conversation) -> EpisodeFidelity:
        """Check one that has a result."""
        fidelity, turns = check_fidelity(conversation), conversation.transcript.turns
        labels = tuple(tuple(self._label(model, turn) for turn in turns) for model in self._judges)
        kept = turns if len(self._judges) > 1 else ()
        self._seen.append(_Seen(fidelity, mark_turns(conversation), labels, kept))
        return fidelity

    def finish(self, collected: Collected) -> Assessment:
        """Return the checks of all that was added; `collected` is the run that it came from."""
        plan, sweep = self._plan, self._plan.sweep
        order = {(cell.condition, cell.trial): place for place, cell in enumerate(plan.cells)}
        self._seen.sort(
            key=lambda one: (
                order[one.fidelity.condition, one.fidelity.trial],
                one.fidelity.task_id,
            )
        )
        records = tuple(one.fidelity for one in self._seen)
        judged_sample = sweep.judge.sample if sweep.judge else None
        judged = self._assess_manipulation(judged_sample)
        # The declared judge, else the one that has labelled the most turns.
        judged.sort(key=lambda each: (-sum(arm.judged for arm in each.conditions), each.model))
        declared = _find_declared_judge(sweep)
        main = next((each for each in judged if each.model == declared), next(iter(judged), None))
        user_checks = fidelity.summarise_by_condition(records)
        coverage = _measure_coverage(collected)
        results = evaluate(
            sweep.gates,
            coverage,
            power=_compute_power(collected),
            manipulation={each.condition: each for each in (main.conditions if main else ())},
            fidelity={each.condition: each for each in user_checks},
        )
        checks = Checks(
            schema_version=SCHEMA_VERSION,
            run=sweep.name,
            thresholds=sweep.gates,
            declared=plan.created,
            thresholds_declared=list_declared_gates(plan),
            thresholds_changed=plan.gates_changed,
            verdict=decide_overall_verdict(results),
            gates=results,
            coverage=coverage,
            fidelity=user_checks,
            slips=tuple(filter(is_slip, records)),
            markers_version=markers.read_version(),
            markers=markers.summarise_by_condition(
                (one.fidelity.condition, one.fidelity.task_id, one.marked) for one in self._seen
            ),
            judge=main.model if main else None,
            manipulation=tuple(judged),
            judges_agree=self._measure_agreement(),
            judged_sample=judged_sample,
            sample=self._sample,
            settings_changed=plan.settings_changed,
        )
        return Assessment(checks, records)

    def _assess_manipulation(self, sample: int | None) -> list[Manipulation]:
        """Return them by judge; turns outside the judge's sample do not count as missing."""
        chosen = choose_pairs(self._plan.sweep, sample)
        targets = {name: each.judged_as for name, each in self._plan.sweep.variants.items()}
        return [
            measure_manipulation(
                model,
                (
                    JudgedTurn(of.condition, of.task_id, of.trial, number, label, marked)
                    for of, turns, labels, _ in self._seen
                    for number, (label, marked) in enumerate(
                        zip(labels[place], turns, strict=True), 1
                    )
                    if label or (of.task_id, of.trial) in chosen[of.condition.env]
                ),
                targets,
            )
            for place, model in enumerate(self._judges)
        ]

    def _measure_agreement(self) -> tuple[Agreement, ...]:
        texts = [turn for one in self._seen for turn in one.turns]
        labels = {
            model: {text: self._label(model, text) for text in set(texts)} for model in self._judges
        }
        return compare_judges(labels, texts)


def _find_declared_judge(sweep: Sweep) -> str | None:
    """Return the id of the sweep file's judge."""
    if sweep.judge is None or sweep.judge.server is None:
        return sweep.judge.model if sweep.judge else None
    role = sweep.user if sweep.judge.server == "user" else sweep.assistants.get(sweep.judge.server)
    return role.served if role else None


def _measure_coverage(collected: Collected) -> tuple[Coverage, ...]:
    counts: dict[Condition, list[int]] = {}
    for result in collected.cells:
        cell = result.cell
        condition = cell.condition
        count = counts.setdefault(condition, [0, 0, 0, 0])
        count[0] += result.expected
        count[1] += result.scored
        count[2] += len(result.file.episodes)
        count[3] += result.lost_attempts
    return tuple(Coverage(condition, *count) for condition, count in counts.items())


def _compute_power(collected: Collected) -> dict[Group, DesignPower]:
    frame = make_frame(collected.list_observations())
    verdict = judge_power_of_study(collected.plan, split_arms(count_by_task(frame)))
    return {each.design.group: each for each in verdict.designs}


def to_json(checks: Checks) -> dict[str, Any]:
    """Return the checks as JSON values, as checks.schema.json describes them."""
    data: dict[str, Any] = _build_adapter().dump_python(checks, mode="json")
    return data


def build_schema() -> dict[str, Any]:
    """Return the JSON schema of `checks.json`."""
    found = _build_adapter().json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **found,
        "title": "emobench checks.json",
    }


def write_checks(run_dir: RunDir, checks: Checks) -> None:
    """Write `checks.json`. Raises OSError where the folder cannot be written."""
    write_json(run_dir.checks, to_json(checks))


def _build_adapter() -> TypeAdapter[Checks]:
    from pydantic import TypeAdapter

    return TypeAdapter(Checks)
