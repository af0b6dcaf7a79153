"""The simulated user: the emotion as a judge saw it, how it writes, whether it stayed on task."""

from __future__ import annotations

from collections.abc import Iterator

from emobench.analysis.judge.manipulation import Manipulation, VariantManipulation
from emobench.analysis.stats.estimates import FEW, Difference, Interval, Mean
from emobench.analysis.transcript.fidelity import MEASURES
from emobench.core.outcomes import Condition
from emobench.report.blocks import Block, Cell, Items, Remark, Scalar, Section, Table, heads
from emobench.report.figures.curves import Curve, Point, curves
from emobench.report.figures.heatmap import Tile, heatmap
from emobench.report.numbers import DAGGER, DASH, measure, percent, plural, rate, signed
from emobench.report.scene import series
from emobench.report.sections.common import condition_keys, interval_columns
from emobench.report.study import Study
from emobench.store.labels import LABELS

FEW_NOTE = f"{DAGGER} Fewer than {FEW} events, or fewer than {FEW} others: the rate says little."


def manipulation_section(study: Study) -> Section:
    """Is the emotion visible: a judge's labels, where there are some."""
    title, identifier = "Is the emotion visible?", "manipulation"
    checks = study.checks
    main = next((each for each in checks.manipulation if each.model == checks.judge), None)
    blocks: list[Block] = []
    if main is None or not any(each.judged for each in main.conditions):
        blocks.append(
            Remark("No judge has labelled the users' turns; `emobench judge RUN_DIR` asks one.")
        )
    else:
        blocks += _judged(study, main)
    blocks += _markers(study)
    return Section(identifier, title, tuple(blocks))


def _judged(study: Study, main: Manipulation) -> Iterator[Block]:
    several = len({each.condition.group for each in main.conditions}) > 1
    arms = [each for each in main.conditions if each.judged]
    yield heatmap(
        "confusion",
        "Labels of the users' turns by variant: confusion matrix",
        [
            (
                _named(each.condition, several),
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
    yield _judge_table(main, arms, several)
    order = list(dict.fromkeys(each.condition.variant for each in arms))
    roles = series(order, "control")
    emotional = [each for each in arms if each.target not in (None, "neutral") and each.decay]
    if emotional and not several:
        turns = list(dict.fromkeys(point.turn for each in emotional for point in each.decay))
        turns.sort(key=lambda turn: int(turn.rstrip("+")))
        yield curves(
            "decay",
            "Share of turns recognised, over the course of the conversation",
            [_decay(each, turns, roles[each.condition.variant]) for each in emotional],
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
                    f"agree on {percent(each.observed)} of {each.turns:,} turns, Cohen's kappa "
                    f"{rate(each.kappa) if each.kappa is not None else 'undefined'}",
                )
                for each in agreements
            ),
            "Agreement",
        )


def _decay(each: VariantManipulation, turns: list[str], role: str) -> Curve:
    points_ = tuple(
        Point(
            turns.index(point.turn),
            point.recognised,
            caption=f"{each.condition.variant}, turn {point.turn}: {rate(point.recognised)} of "
            f"{point.turns} turns",
        )
        for point in each.decay
        if point.recognised is not None
    )
    return Curve(each.condition.variant, points_, role)


def _judge_table(main: Manipulation, arms: list[VariantManipulation], several: bool) -> Table:
    return Table(
        "manipulation",
        f"What the judge {main.model} saw, by variant; 95 % intervals clustered by task.",
        heads(
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
                Cell(_named(each.condition, several)),
                Cell(f"{each.judged:,}", f"of {each.turns:,}"),
                Cell(f"{each.missing:,}"),
                _share_cell(each.recognised),
                _paired_cell(each.above_control),
                _share_cell(each.conversations_recognised),
                Cell(measure(each.intensity.value), title=each.intensity.label),
            )
            for each in arms
        ),
        (FEW_NOTE,),
        tuple(
            {
                **condition_keys(each.condition),
                "judge": main.model,
                "turns": each.turns,
                "judged": each.judged,
                **{f"turns_{label}": each.labels.get(label, 0) for label in LABELS},
                "recognised": each.recognised.value if each.recognised else None,
                **interval_columns(
                    "recognised", each.recognised.interval if each.recognised else None
                ),
                "intensity": each.intensity.value,
            }
            for each in arms
        ),
    )


def _markers(study: Study) -> Iterator[Block]:
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
        heads("Variant", "Turns", *(found[0].measures[n].label.split(",")[0] for n in names)),
        tuple(
            (
                Cell(_named(each.condition, several)),
                Cell(f"{each.turns:,}"),
                *(_marker(each.measures[name], each.differences.get(name)) for name in names),
            )
            for each in found
        ),
        (FEW_NOTE,),
        tuple(
            {**condition_keys(each.condition), "marker": name, **_measured(each.measures[name])}
            for each in found
            for name in names
        ),
    )


def _marker(own: Mean, gap: Difference | None) -> Cell:
    detail = signed(gap.value) if gap is not None and gap.value else ""
    title = gap.label if gap else own.label
    return Cell(measure(own.value), detail, title, mark=_few(own))


def fidelity_section(study: Study) -> Section:
    """Did the simulated user stay with its task."""
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
        heads(
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
                Cell(_named(each.condition, several)),
                Cell(
                    f"{each.conversations:,}", f"{each.left_out} cut short" if each.left_out else ""
                ),
                *(_fidelity(each.measures[n], each.differences.get(n)) for n in names),
            )
            for each in found
        ),
        (FEW_NOTE,),
        tuple(
            {**condition_keys(each.condition), "measure": name, **_measured(each.measures[name])}
            for each in found
            for name in names
        ),
    )
    slips = len(study.checks.slips)
    remark = Remark(
        f"{plural(slips, 'conversation')} with a slip; checks.json, made by `emobench check`, "
        "lists them one by one. The rules rather miss a slip than see one that is none."
    )
    return Section(identifier, title, (table, remark))


def _fidelity(own: Mean, gap: Difference | None) -> Cell:
    detail = ""
    if gap is not None and gap.value:
        detail = signed(100 * gap.value, 1)
        detail += f" {_points(gap.interval, 1)}" if gap.interval else ""
    title = gap.label if gap else own.label
    text = percent(own.value)
    return Cell(text, detail, title, mark=_few(own))


def _share_cell(found: Mean | None) -> Cell:
    if found is None or found.value is None:
        return Cell(DASH, state="muted")
    interval = found.interval
    detail = f"[{percent(interval.low)}, {percent(interval.high)}]" if interval else ""
    return Cell(percent(found.value), detail, found.label, mark=_few(found))


def _few(found: Mean) -> str:
    """A mark where something happened, or failed to, but rarely."""
    return DAGGER if found.few_events and found.value not in (None, 0.0, 1.0) else ""


def _paired_cell(found: Difference | None) -> Cell:
    if found is None or found.value is None:
        return Cell(DASH, state="muted")
    detail = _points(found.interval, 0) if found.interval else ""
    return Cell(signed(100 * found.value, 0), detail, found.label)


def _points(interval: Interval, digits: int) -> str:
    return f"[{signed(100 * interval.low, digits)}, {signed(100 * interval.high, digits)}]"


def _named(condition: Condition, several: bool) -> str:
    return str(condition) if several else condition.variant


def _measured(found: Mean) -> dict[str, Scalar]:
    return {
        "label": found.label,
        "value": found.value,
        **interval_columns("", found.interval),
        "n": found.episodes,
        "tasks": found.tasks,
        "events": found.events,
        "few_events": found.few_events,
    }
