"""The first page: does the agent still do its job, by how much, how sure, can it be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from emobench.analysis.effects import GroupFinding
from emobench.analysis.gates import GATES
from emobench.analysis.stats.estimates import FEW, Decision, Difference
from emobench.analysis.stats.means import CLUSTERED
from emobench.analysis.stats.power import POWER
from emobench.core.wording import pluralise
from emobench.report.blocks import Block
from emobench.report.figures import Dot, draw_forest, make_symmetric_axis
from emobench.report.interim import INTERIM
from emobench.report.numbers import (
    describe_decision,
    format_change,
    format_difference,
    format_interval,
    format_mean,
    format_number,
    format_p_phrase,
    format_percent,
    format_points,
    join_words,
)
from emobench.report.provenance import list_scripted_roles
from emobench.report.sections.common import format_size, format_title, is_compared, shorten_labels
from emobench.report.sections.results import build_effect_dots, build_pooled_table, format_effect
from emobench.report.study import Study

SURE = 0.05
FEW_GROUPS = 3
"""Up to so many groups are told one by one."""
MOST_REVERSALS = 6
"""That are named one by one."""


@dataclass(frozen=True)
class Answer:
    question: str
    lines: tuple[str, ...]


def write_answers(study: Study) -> list[Answer]:
    """Answer what a reader wants to know first, in whole sentences."""
    return [
        Answer("How much is there?", (_describe_coverage(study),)),
        Answer(
            "Does the agent still do its job?",
            (*_describe_effects(study), *_list_interim_marks(study)),
        ),
        Answer("How sure is that?", (_describe_power(study), *_describe_reversals(study))),
        Answer("Can it be trusted?", tuple(_describe_trust(study))),
    ]


def build_overview_blocks(study: Study) -> list[Block]:
    """Return effects of all groups in one figure, where there are several."""
    groups = [each for each in study.findings.groups if is_compared(each)]
    if len(groups) < 2:
        return []
    dots: list[Dot] = [Dot("All groups together, each task once", heading=True)]
    for pooled in study.findings.pooled:
        found = pooled.difference
        caption = f"{found.label}: {format_difference(found)}"
        dots.append(
            Dot(pooled.variant, found.value, found.interval, format_effect(found), caption=caption)
        )
    for group in groups:
        dots.append(Dot(f"{format_title(group)}, {format_size(study, group)}", heading=True))
        dots += build_effect_dots(study, group, overall=True)
    return [
        build_pooled_table(study.findings.pooled, study.findings.groups[0].baseline),
        draw_forest(
            "overview",
            "Difference in mean reward from control by variant, every group",
            dots,
            make_symmetric_axis("difference in mean reward from control, paired by task", dots),
            caption="Difference in mean reward, variant minus control, in every environment, "
            f"assistant and agent strategy, {CLUSTERED}; p from sign flips, adjusted by Holm over "
            "the variants for all groups together, and for single groups over all comparisons of "
            "the run. Beside each effect stand the gates that its variant does "
            "not pass there.",
        ),
    ]


def _describe_coverage(study: Study) -> str:
    scored = sum(each.with_result for each in study.checks.coverage)
    planned = sum(each.planned for each in study.checks.coverage)
    if not scored:
        return f"No conversation has a result yet; {planned:,} are planned."
    verb = "has a result" if planned == 1 else "have a result"
    return f"{scored:,} of {pluralise(planned, 'planned conversation')} {verb}."


def _describe_effects(study: Study) -> Iterator[str]:
    groups = [g for g in study.findings.groups if any(v.mean.episodes for v in g.variants)]
    if not groups:
        yield "Nothing can be said yet."
        return
    if len(groups) > 1:
        yield _describe_pooled(study)
    if len(groups) > FEW_GROUPS:
        yield _describe_groups(study, groups)
        return
    for group in groups:
        start = f"{format_title(group)}: " if len(groups) > 1 else ""
        text = _describe_group(study, group)
        yield f"{start}{text[0].lower()}{text[1:]}" if start else text


def _list_interim_marks(study: Study) -> list[str]:
    """Return what p's of a run that goes on have to say; nothing where there is no p, or no more to
    come."""
    contrasts = [each.contrast for group in study.findings.groups for each in group.variants]
    shows_p = any(each and each.difference.p_permutation is not None for each in contrasts)
    return [INTERIM] if shows_p and not study.collected.is_complete else []


@dataclass(frozen=True)
class _Effect:
    variant: str
    found: Difference
    decision: Decision
    over_placebo: Difference | None
    marks: str = ""

    def __str__(self) -> str:
        """Return 'anger (-0.40 [-0.52, -0.28], adjusted p < 0.001; fails power)'."""
        p = format_p_phrase(self.decision.p_adjusted)
        text = (
            f"{format_difference(self.found)}, adjusted {p}" if p else format_difference(self.found)
        )
        return f"{self.variant} ({'; '.join(part for part in (text, self.marks) if part)})"


def _list_effects(study: Study, group: GroupFinding) -> list[_Effect]:
    """Return the group's effects that have a value, decided over all groups of the run."""
    return [
        _Effect(
            each.variant,
            each.contrast.difference,
            each.contrast.overall,
            each.contrast.over_placebo,
            shorten_labels(study.find_labels(group, each.variant)),
        )
        for each in group.variants
        if each.contrast is not None and each.contrast.difference.value is not None
    ]


def _describe_group(study: Study, group: GroupFinding) -> str:
    base = next((each for each in group.variants if each.contrast is None), None)
    if base is None:
        rates = ", ".join(f"{e.variant} {format_number(e.mean.value)}" for e in group.variants)
        return (
            f"Mean reward is {rates}. There is no {group.baseline} here, so no variant can be "
            "compared with it."
        )
    text = f"Mean reward with {base.variant} is {format_mean(base.mean)}."
    effects = _list_effects(study, group)
    if not effects:
        return f"{text} No variant can be compared with it yet."
    return " ".join([text, *_describe_decisions(effects, base.variant)])


def _describe_pooled(study: Study) -> str:
    """Return what holds over all groups together, which is asked first."""
    pooled = study.findings.pooled
    effects = [
        _Effect(each.variant, each.difference, each.decision, each.over_placebo)
        for each in pooled
        if each.difference.value is not None
    ]
    if not effects:
        return "Over all groups together nothing is compared with control yet."
    base = study.findings.groups[0].baseline
    said = " ".join(_describe_decisions(effects, base))
    return (
        f"Over all {len(study.findings.groups)} groups together, each task once, mean reward "
        f"against {base} ({_name_family(effects)}): {said[0].lower()}{said[1:]}"
    )


def _describe_decisions(effects: Sequence[_Effect], base: str) -> Iterator[str]:
    """Say which effects are shown, what each of the others excludes, and which are not told apart
    from a longer prompt."""
    for statement in ("lower", "higher"):
        found = [each for each in effects if each.decision.statement == statement]
        if found:
            found.sort(key=lambda each: -abs(each.found.value or 0))
            yield f"It is {statement} with {join_words([str(each) for each in found])}."
    for each in effects:
        if each.decision.statement not in ("lower", "higher"):
            what = describe_decision(each.found, each.decision, base)
            yield f"With {each}{' it is' if each.decision.interval else ':'} {what}."
    alike = [
        f"{each.variant} ({format_difference(each.over_placebo)}, adjusted {p})"
        for each in effects
        if each.over_placebo is not None
        and not _is_sure(each.over_placebo.p_adjusted)
        and (p := format_p_phrase(each.over_placebo.p_adjusted))
    ]
    if alike:
        yield f"Not told apart from a longer prompt without emotion: {join_words(alike)}."


def _describe_groups(study: Study, groups: list[GroupFinding]) -> str:
    effects = [(group, each) for group in groups for each in _list_effects(study, group)]
    if not effects:
        return f"In {len(groups)} groups nothing is compared with control yet."
    counts = Counter(each.decision.statement for _, each in effects)
    group, most = min(effects, key=lambda item: item[1].found.value or 0.0)
    bases = [v.mean.value for g in groups for v in g.variants if v.contrast is None]
    means = sorted(value for value in bases if value is not None)
    return (
        f"Mean reward with {groups[0].baseline} is {format_number(means[0])} to "
        f"{format_number(means[-1])}. Of {len(effects)} effects in {len(groups)} groups, "
        f"{counts['lower']} are drops and {counts['higher']} are gains with an adjusted p "
        f"below {SURE} ({_name_family([each for _, each in effects])}); {counts['equivalent']} are "
        f"equivalent within {format_points(most.decision.margin)} points. "
        f"Selected as the lowest of {len(effects)}, and so likely lower than it would be seen "
        f"again: {most} in {format_title(group)}."
    )


def _name_family(effects: Sequence[_Effect]) -> str:
    """Return the family of the emotions; a placebo is alone in its own."""
    return next((each for each in effects if each.over_placebo), effects[0]).decision.family


def _is_sure(p: float | None) -> bool:
    return p is not None and p < SURE


def _describe_reversals(study: Study) -> Iterator[str]:
    """Name the effects that read otherwise under another treatment of lost and missing
    conversations."""
    several = len(study.findings.groups) > 1
    turned = [
        f"{each.variant}{f' in {format_title(group)}' if several else ''} ({row.rule}: "
        f"{format_change(row.value)} {format_interval(row.interval, change=True)})"
        for group in study.findings.groups
        for each in group.variants
        if each.contrast is not None
        for row in each.contrast.sensitivity
        if row.reverses
    ]
    if turned:
        more = len(turned) - MOST_REVERSALS
        shown = turned[:MOST_REVERSALS] + ([f"{more} more"] if more > 0 else [])
        yield (
            "Another treatment of lost and missing conversations turns what is read off: "
            f"{join_words(shown)}."
        )
    elif any(
        each.lost.value or each.mean.missing for g in study.findings.groups for each in g.variants
    ):
        yield (
            "Conversations were lost or are missing; no other treatment of them that was tried "
            "turns what is read off."
        )


def _describe_power(study: Study) -> str:
    found = study.power
    if not found.designs:
        return "No variant is compared with control, so there is no effect to detect."
    smallest = [each.smallest for each in found.designs]
    known = [value for value in smallest if value is not None]
    chance = format_percent(POWER)
    design = found.designs[0].design
    size = f"{pluralise(design.tasks, 'task')} \u00d7 {pluralise(design.trials, 'trial')}"
    where = size if len(found.designs) == 1 else f"the {len(found.designs)} groups of this design"
    if len(known) < len(smallest):
        which = "" if not known else f" in {len(smallest) - len(known)} of them"
        finds = f"{where} cannot find even a drop to nothing{which} with {chance} power"
    else:
        low, high = format_points(min(known)), format_points(max(known))
        span = low if low == high else f"{low} to {high}"
        finds = f"{where} can find drops from {span} points on with {chance} power"
    wanted = format_points(found.wanted)
    said = "was declared as" if found.wanted_from == "sweep file" else "is, by default,"
    text = f"{finds[0].upper()}{finds[1:]}; the smallest of interest {said} {wanted}."
    if any(found.wanted > each.most for each in found.designs):
        most = format_points(min(each.most for each in found.designs))
        text += f" Control's mean is {most} points: no drop can be larger."
    if not found.passed:
        text += " The design is underpowered for that."
    if min(each.design.tasks for each in found.designs) < FEW:
        text += (
            f" With fewer than {FEW} tasks tests can hardly reach {SURE}, whatever the interval."
        )
    return text


def _describe_trust(study: Study) -> Iterator[str]:
    if list_scripted_roles(study.collected):
        yield "Scripted models: this tests the pipeline and is no finding about any model."
    if study.checks.thresholds_changed:
        yield "The gates' thresholds were changed when there were results already."
    counts: dict[str, Counter[str]] = {gate: Counter() for gate in GATES}
    for each in study.checks.gates:
        counts[each.gate][each.verdict] += 1
    parts = []
    for gate, verdicts in counts.items():
        total = sum(verdicts.values())
        if not total:
            continue
        words = [
            f"{word} for {verdicts[verdict]} of {total}"
            for verdict, word in (("failed", "failed"), ("not_checked", "not checked"))
            if verdicts[verdict]
        ]
        parts.append(f"{gate} {' and '.join(words) if words else 'passed'}")
    if parts:
        yield f"Gates: {'; '.join(parts)}."
    else:
        yield "No gate could be looked at."
