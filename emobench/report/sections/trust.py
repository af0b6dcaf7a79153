"""Can it be trusted: the gates, the simulated user as a judge and rules saw it, and power."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, astuple

from emobench.analysis.gates import GATES, GateResult
from emobench.analysis.judge.manipulation import Manipulation, VariantManipulation
from emobench.analysis.stats.estimates import Difference, Mean
from emobench.analysis.stats.power import POWER
from emobench.analysis.stats.task_model import SPREAD
from emobench.analysis.transcript.fidelity import MEASURES
from emobench.core.outcomes import Condition
from emobench.core.wording import pluralise
from emobench.report.blocks import (
    Block,
    Cell,
    Items,
    Remark,
    Scalar,
    Section,
    State,
    Table,
    make_heads,
)
from emobench.report.drawing import assign_roles
from emobench.report.figures import Curve, Point, Tile, draw_curves, draw_heatmap
from emobench.report.numbers import (
    DASH,
    format_change,
    format_difference,
    format_interval,
    format_number,
    format_percent,
    format_points,
    join_words,
)
from emobench.report.sections.common import (
    BLANK,
    FEW_NOTE,
    build_condition_keys,
    build_interval_columns,
    choose_few_mark,
)
from emobench.report.study import Study
from emobench.store.labels import LABELS

WORDS: dict[str, str] = {"passed": "passed", "failed": "failed", "not_checked": "not checked"}


def build_gate_section(study: Study) -> Section:
    """Build the table of every gate of every variant, and why those fail that do."""
    results: dict[Condition, dict[str, GateResult]] = {}
    for each in study.checks.gates:
        results.setdefault(each.condition, {})[each.gate] = each
    if not results:
        return Section("gates", "Gates", (Remark("Nothing is planned."),))
    several = len({condition.group for condition in results}) > 1
    table = Table(
        "gates",
        f"Gates of each variant. {_describe_declared(study)} What a variant does not pass stands "
        "beside its effect wherever that is shown.",
        make_heads("Variant", *GATES),
        tuple(
            (
                Cell(str(condition) if several else condition.variant),
                *(_build_verdict_cell(found.get(gate)) for gate in GATES),
            )
            for condition, found in results.items()
        ),
        records=tuple(
            {
                **build_condition_keys(each.condition),
                "gate": each.gate,
                "verdict": each.verdict,
                "reason": each.reason,
            }
            for each in study.checks.gates
        ),
    )
    blocks: list[Block] = [table, *_build_reasons(study, several), *_build_odd_reply_tables(study)]
    return Section("gates", "Gates", tuple(blocks))


def _describe_declared(study: Study) -> str:
    """Say which thresholds stand in the sweep file."""
    names = study.checks.thresholds_declared
    if not names:
        return "The sweep file declares no threshold: all are defaults."
    return f"The sweep file declares {join_words(list(names))}; the other thresholds are defaults."


def _build_verdict_cell(found: GateResult | None) -> Cell:
    if found is None:
        return Cell(DASH, title="this gate needs a contrast", state="muted")
    state: State = found.verdict
    near = found.verdict != "not_checked" and any(each.near for each in found.criteria)
    return Cell(
        WORDS[found.verdict], title=found.reason, state=state, detail="near" if near else ""
    )


def _build_reasons(study: Study, several: bool) -> Iterator[Block]:
    """Build the list of reasons; one that several variants share stands once."""
    whose: dict[tuple[str, str, str], list[str]] = {}
    for each in study.checks.gates:
        if each.verdict != "passed":
            key = (each.gate, WORDS[each.verdict], each.reason)
            name = str(each.condition) if several else each.condition.variant
            whose.setdefault(key, []).append(name)
    items = tuple(
        (f"{gate}, {verdict}", f"{', '.join(names)}: {reason}")
        for (gate, verdict, reason), names in whose.items()
    )
    if items:
        yield Items(items, "Reasons")
    if any(c.near for each in study.checks.gates for c in each.criteria):
        yield Remark(
            "The interval of its figure holds the threshold: more data might turn it.", "Near."
        )
    if study.checks.thresholds_changed:
        yield Remark(
            f"The thresholds were changed on {study.checks.thresholds_changed}, when there were "
            "results already: they were not declared before the data.",
            "Changed thresholds.",
        )


def _build_odd_reply_tables(study: Study) -> Iterator[Table]:
    """Build the counts of replies that no message was made of as they came."""
    if study.odd_replies:
        yield Table(
            "replies",
            "Replies that reasoning was taken out of, and empty ones, which are reasoning alone or "
            "nothing at all. The conversation went on with what was left, unless the sweep file "
            "says end_at_empty_reply; a variant with more of them than control differs in more "
            "than its emotion.",
            make_heads(
                *("Variant", "Conversations", "User's with reasoning", "User's empty"),
                *("Assistant's with reasoning", "Assistant's empty"),
            ),
            tuple(
                (Cell(each.variant), *(Cell(f"{n:,}") for n in astuple(each)[1:]))
                for each in study.odd_replies
            ),
            records=tuple(asdict(each) for each in study.odd_replies),
        )


def _describe_wanted(study: Study) -> str:
    return "as declared" if study.power.wanted_from == "sweep file" else "a default"


def build_power_section(study: Study) -> Section:
    """Build the table of the smallest drop that the design can see."""
    verdict = study.power
    if not verdict.designs:
        reason = "No variant is compared with control, so there is no effect to detect."
        return Section("power", "Power", (Remark(reason),))
    rows, records = [], []
    sources = dict.fromkeys(each.difficulty.source for each in verdict.designs)
    for each in verdict.designs:
        design = each.design
        rows.append(
            (
                Cell(f"{design.env} / {design.assistant} / {design.agent_strategy}"),
                Cell(f"{design.tasks:,}"),
                Cell(f"{design.trials:,}"),
                Cell(f"{design.variants:,}"),
                Cell(
                    format_points(each.smallest) if each.smallest is not None else "none",
                    state="passed" if each.enough else "failed",
                ),
                Cell(
                    format_points(verdict.wanted),
                    title=f"{verdict.wanted_from}; control's mean is {format_points(each.most)}",
                ),
                Cell(
                    format_number(each.difficulty.pass_1),
                    format_number(each.difficulty.pass_2),
                    each.difficulty.source,
                ),
                Cell(format_number(each.difficulty.spread), title=each.difficulty.spread_source),
                Cell(f"{each.trials_needed:,}" if each.trials_needed else "no number"),
                Cell(f"{each.tasks_needed:,}" if each.tasks_needed else "no number"),
            )
        )
        record: dict[str, Scalar] = {
            "env": design.env,
            "assistant": design.assistant,
            "agent_strategy": design.agent_strategy,
            "tasks": design.tasks,
            "trials": design.trials,
            "variants": design.variants,
            "alpha": each.alpha,
            "power": each.power,
            "smallest_drop": each.smallest,
            "wanted": each.wanted,
            "wanted_from": verdict.wanted_from,
            "pass_1": each.difficulty.pass_1,
            "pass_2": each.difficulty.pass_2,
            "difficulty_source": each.difficulty.source,
            "spread": each.difficulty.spread,
            "spread_source": each.difficulty.spread_source,
            "trials_needed": each.trials_needed,
            "tasks_needed": each.tasks_needed,
        }
        records.append(record)
    table = Table(
        "power",
        f"Smallest drop in mean reward, in points of 100, that the planned design finds with "
        f"{format_percent(POWER)} power, two-sided, by sign flips at Holm's first step, with the "
        "other variants without effect; and what the smallest effect of interest, "
        f"{_describe_wanted(study)}, would take.",
        make_heads(
            "Group",
            "Tasks",
            "Trials",
            "Variants",
            "Smallest drop",
            "Wanted",
            "pass^1 of control",
            "Spread of effects",
            "Trials needed",
            "Tasks needed",
        ),
        tuple(rows),
        (
            f"Tasks as hard as {'; '.join(sources)}. Effects that differ from task to task by the "
            "spread, in logits: measured where 10 tasks have two trials on both sides, else "
            f"assumed as {SPREAD}.",
        ),
        tuple(records),
    )
    return Section("power", "Power", (table,))


def build_manipulation_section(study: Study) -> Section:
    """Build what says whether the emotion is visible: a judge's labels, where there are some."""
    title, identifier = "Is the emotion visible?", "manipulation"
    checks = study.checks
    main = next((each for each in checks.manipulation if each.model == checks.judge), None)
    blocks: list[Block] = []
    if main is None or not any(each.judged for each in main.conditions):
        blocks.append(
            Remark("No judge has labelled the users' turns; `emobench judge RUN_DIR` asks one.")
        )
    else:
        blocks += _build_judge_blocks(study, main)
    blocks += _build_marker_tables(study)
    return Section(identifier, title, tuple(blocks))


def _build_judge_blocks(study: Study, main: Manipulation) -> Iterator[Block]:
    several = len({each.condition.group for each in main.conditions}) > 1
    arms = [each for each in main.conditions if each.judged]
    yield draw_heatmap(
        "confusion",
        "Labels of the users' turns by variant: confusion matrix",
        [
            (
                _name_condition(each.condition, several),
                [
                    Tile(
                        each.labels.get(label, 0) / each.judged,
                        f"{each.condition.variant}: {each.labels.get(label, 0)} of {each.judged} "
                        f"turns labelled {label}",
                    )
                    for label in LABELS
                ],
            )
            for each in arms
        ],
        list(LABELS),
        axis="label of the judge",
        caption=f"Share of a variant's user turns by the label that {main.model} gave them, blind "
        "to the variant: confusion matrix.",
        cell=88,
    )
    yield _build_judge_table(main, arms, several)
    order = list(dict.fromkeys(each.condition.variant for each in arms))
    roles = assign_roles(order, "control")
    emotional = [each for each in arms if each.target not in (None, "neutral") and each.decay]
    if emotional and not several:
        turns = list(dict.fromkeys(point.turn for each in emotional for point in each.decay))
        turns.sort(key=lambda turn: int(turn.rstrip("+")))
        yield draw_curves(
            "decay",
            "Share of turns recognised, over the course of the conversation",
            [_build_decay_curve(each, turns, roles[each.condition.variant]) for each in emotional],
            turns,
            axis="the user's turn, from 1",
            value_axis="share of turns recognised",
            caption="Share of user turns that the judge labels as the variant, by turn. Later "
            "turns are of the longer conversations only.",
        )
    agreements = [*main.with_markers, *study.checks.judges_agree]
    if agreements:
        yield Items(
            tuple(
                (
                    each.what,
                    f"agree on {format_percent(each.observed)} of {pluralise(each.turns, 'turn')}, "
                    "Cohen's kappa "
                    f"{'undefined' if each.kappa is None else format_number(each.kappa)}",
                )
                for each in agreements
            ),
            "Agreement",
        )


def _build_decay_curve(each: VariantManipulation, turns: list[str], role: str) -> Curve:
    points_ = tuple(
        Point(
            turns.index(point.turn),
            point.recognised,
            caption=f"{each.condition.variant}, turn {point.turn}: "
            f"{format_number(point.recognised)} of {pluralise(point.turns, 'turn')}",
        )
        for point in each.decay
        if point.recognised is not None
    )
    return Curve(each.condition.variant, points_, role)


def _build_judge_table(main: Manipulation, arms: list[VariantManipulation], several: bool) -> Table:
    return Table(
        "manipulation",
        f"What the judge {main.model} saw, by variant; 95 % intervals clustered by task.",
        make_heads(
            "Variant",
            "Judged turns",
            "Without a label",
            "Turns recognised",
            "Above control",
            "Conversations recognised",
            "Intensity 0 to 3",
        ),
        tuple(
            (
                Cell(_name_condition(each.condition, several)),
                Cell(f"{each.judged:,}", f"of {each.turns:,}"),
                Cell(f"{each.missing:,}"),
                _build_share_cell(each.recognised),
                _build_difference_cell(each.above_control),
                _build_share_cell(each.conversations_recognised),
                Cell(format_number(each.intensity.value, None), title=each.intensity.label),
            )
            for each in arms
        ),
        (FEW_NOTE,),
        tuple(
            {
                **build_condition_keys(each.condition),
                "judge": main.model,
                "turns": each.turns,
                "judged": each.judged,
                **{f"turns_{label}": each.labels.get(label, 0) for label in LABELS},
                "recognised": each.recognised.value if each.recognised else None,
                **build_interval_columns(
                    "recognised", each.recognised.interval if each.recognised else None
                ),
                "intensity": each.intensity.value,
            }
            for each in arms
        ),
    )


def _build_marker_tables(study: Study) -> Iterator[Block]:
    found = study.checks.markers
    if not found:
        return
    several = len({each.condition.group for each in found}) > 1
    names = list(found[0].measures)
    yield Table(
        "markers",
        f"Transparent markers of the users' turns (version {study.checks.markers_version}), by "
        "variant; behind them the difference from control, paired by task. They describe, and "
        "name no emotion.",
        make_heads("Variant", "Turns", *(found[0].measures[n].label.split(",")[0] for n in names)),
        tuple(
            (
                Cell(_name_condition(each.condition, several)),
                Cell(f"{each.turns:,}"),
                *(
                    _build_marker_cell(each.measures[name], each.differences.get(name))
                    for name in names
                ),
            )
            for each in found
        ),
        (FEW_NOTE,),
        tuple(
            {
                **build_condition_keys(each.condition),
                "marker": name,
                **_build_mean_record(each.measures[name]),
            }
            for each in found
            for name in names
        ),
    )


def _build_marker_cell(own: Mean, gap: Difference | None) -> Cell:
    detail = format_change(gap.value) if gap is not None and gap.value else ""
    title = gap.label if gap else own.label
    return Cell(format_number(own.value, None), detail, title, mark=choose_few_mark(own))


def build_fidelity_section(study: Study) -> Section:
    """Build what says whether the simulated user stayed with its task."""
    title, identifier = "Did the user stay with its task?", "fidelity"
    found = [each for each in study.checks.fidelity if each.conversations]
    if not found:
        return Section(identifier, title, (Remark("There is no conversation to look at yet."),))
    several = len({each.condition.group for each in found}) > 1
    names = list(MEASURES)
    table = Table(
        "fidelity",
        "Fidelity of the simulated user by rules from the transcript, the instruction and the "
        "ground truth; behind a share its difference from control in points, paired by task.",
        make_heads(
            "Variant",
            "Conversations",
            "facts conveyed",
            "with an invented value",
            "contradicted",
            "ended too early",
            "speaks as the agent",
            "reasoning leaked",
        ),
        tuple(
            (
                Cell(_name_condition(each.condition, several)),
                Cell(
                    f"{each.conversations:,}", f"{each.left_out} cut short" if each.left_out else ""
                ),
                *(_build_fidelity_cell(each.measures[n], each.differences.get(n)) for n in names),
            )
            for each in found
        ),
        (FEW_NOTE,),
        tuple(
            {
                **build_condition_keys(each.condition),
                "measure": name,
                **_build_mean_record(each.measures[name]),
            }
            for each in found
            for name in names
        ),
    )
    slips = len(study.checks.slips)
    remark = Remark(
        f"{pluralise(slips, 'conversation')} with a slip; checks.json, made by `emobench check`, "
        "lists them one by one. The rules rather miss a slip than see one that is none."
    )
    return Section(identifier, title, (table, remark))


def _build_fidelity_cell(own: Mean, gap: Difference | None) -> Cell:
    detail = ""
    if gap is not None and gap.value:
        detail = format_difference(gap, 1, scale=100)
    title = gap.label if gap else own.label
    text = format_percent(own.value)
    return Cell(text, detail, title, mark=choose_few_mark(own))


def _build_share_cell(found: Mean | None) -> Cell:
    if found is None or found.value is None:
        return BLANK
    interval = found.interval
    detail = (
        f"[{format_percent(interval.low)}, {format_percent(interval.high)}]" if interval else ""
    )
    return Cell(format_percent(found.value), detail, found.label, mark=choose_few_mark(found))


def _build_difference_cell(found: Difference | None) -> Cell:
    if found is None or found.value is None:
        return BLANK
    detail = format_interval(found.interval, 0, change=True, scale=100)
    return Cell(format_change(100 * found.value, 0), detail, found.label)


def _name_condition(condition: Condition, several: bool) -> str:
    return str(condition) if several else condition.variant


def _build_mean_record(found: Mean) -> dict[str, Scalar]:
    return {
        "label": found.label,
        "value": found.value,
        **build_interval_columns("", found.interval),
        "n": found.episodes,
        "tasks": found.tasks,
        "events": found.events,
        "few_events": found.few_events,
    }
