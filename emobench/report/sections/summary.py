"""The first page: does the agent still do its job, by how much, how sure, can it be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from emobench.analysis.effects import GroupFinding, VariantFinding
from emobench.analysis.gates import GATES
from emobench.analysis.stats.estimates import FEW
from emobench.analysis.stats.means import CLUSTERED
from emobench.analysis.stats.power import POWER
from emobench.core.wording import pluralise
from emobench.report.blocks import Block
from emobench.report.figures import Dot, draw_forest, make_symmetric_axis
from emobench.report.interim import INTERIM
from emobench.report.numbers import (
    format_difference,
    format_mean,
    format_number,
    format_p_phrase,
    format_percent,
    format_points,
    join_words,
)
from emobench.report.provenance import list_scripted_roles
from emobench.report.sections.common import format_size, format_title, is_compared, shorten_labels
from emobench.report.sections.results import build_effect_dots
from emobench.report.study import Study

SURE = 0.05
FEW_GROUPS = 3
"""Up to so many groups are told one by one."""


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
        Answer("How sure is that?", (_describe_power(study),)),
        Answer("Can it be trusted?", tuple(_describe_trust(study))),
    ]


def build_overview_blocks(study: Study) -> list[Block]:
    """Return effects of all groups in one figure, where there are several."""
    groups = [each for each in study.findings.groups if is_compared(each)]
    if len(groups) < 2:
        return []
    dots: list[Dot] = []
    for group in groups:
        dots.append(Dot(f"{format_title(group)}, {format_size(study, group)}", heading=True))
        dots += build_effect_dots(study, group)
    return [
        draw_forest(
            "overview",
            "Difference in mean reward from control by variant, every group",
            dots,
            make_symmetric_axis("difference in mean reward from control, paired by task", dots),
            caption="Difference in mean reward, variant minus control, in every environment, "
            f"assistant and agent strategy, {CLUSTERED}; p from sign flips, adjusted by Holm over "
            "the variants of the group. Beside each effect stand the gates that its variant does "
            "not pass there.",
        )
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


def _describe_group(study: Study, group: GroupFinding) -> str:
    base = next((each for each in group.variants if each.contrast is None), None)
    if base is None:
        rates = ", ".join(f"{e.variant} {format_number(e.mean.value)}" for e in group.variants)
        return (
            f"Mean reward is {rates}. There is no {group.baseline} here, so no variant can be "
            "compared with it."
        )
    text = f"Mean reward with {base.variant} is {format_mean(base.mean)}."
    compared = [each for each in group.variants if _get_value(each) is not None]
    if not compared:
        return f"{text} No variant can be compared with it yet."
    shown = [each for each in compared if _is_sure(each)]
    parts = []
    for name, found in (
        ("lower", [each for each in shown if (_get_value(each) or 0) < 0]),
        ("higher", [each for each in shown if (_get_value(each) or 0) > 0]),
    ):
        if found:
            found.sort(key=lambda each: -abs(_get_value(each) or 0))
            effects = join_words([_describe_effect(study, group, each) for each in found])
            parts.append(f"It is {name} with {effects}.")
    rest = [each for each in compared if each not in shown]
    if rest:
        effects = join_words([_describe_effect(study, group, each) for each in rest])
        parts.append(f"No difference was shown with {effects}.")
    return " ".join([text, *parts])


def _describe_effect(study: Study, group: GroupFinding, each: VariantFinding) -> str:
    """Return 'anger (-0.40 [-0.52, -0.28], adjusted p < 0.001; fails power)'."""
    assert each.contrast is not None
    found = each.contrast.difference
    numbers = format_difference(found)
    p = format_p_phrase(found.p_adjusted)
    text = f"{numbers}, adjusted {p}" if p else numbers
    marks = shorten_labels(study.find_labels(group, each.variant))
    return f"{each.variant} ({text}; {marks})" if marks else f"{each.variant} ({text})"


def _describe_groups(study: Study, groups: list[GroupFinding]) -> str:
    effects = [(g, each) for g in groups for each in g.variants if _get_value(each) is not None]
    if not effects:
        return f"In {len(groups)} groups nothing is compared with control yet."
    lower = [each for _, each in effects if _is_sure(each) and (_get_value(each) or 0) < 0]
    higher = [each for _, each in effects if _is_sure(each) and (_get_value(each) or 0) > 0]
    group, most = min(effects, key=lambda item: _get_value(item[1]) or 0.0)
    bases = [v.mean.value for g in groups for v in g.variants if v.contrast is None]
    means = sorted(value for value in bases if value is not None)
    return (
        f"Mean reward with {groups[0].baseline} is {format_number(means[0])} to "
        f"{format_number(means[-1])}. Of {len(effects)} effects in {len(groups)} groups, "
        f"{len(lower)} are drops and {len(higher)} are gains with an adjusted p "
        f"below {SURE}. The lowest is {_describe_effect(study, group, most)} in "
        f"{format_title(group)}."
    )


def _get_value(each: VariantFinding) -> float | None:
    return each.contrast.difference.value if each.contrast else None


def _is_sure(each: VariantFinding) -> bool:
    p = each.contrast.difference.p_adjusted if each.contrast else None
    return p is not None and p < SURE


def _describe_power(study: Study) -> str:
    found = study.power
    if not found.designs:
        return "No variant is compared with control, so there is no effect to detect."
    smallest = [each.smallest for each in found.designs]
    known = [value for value in smallest if value is not None]
    design = found.designs[0].design
    size = f"{pluralise(design.tasks, 'task')} \u00d7 {pluralise(design.trials, 'trial')}"
    where = size if len(found.designs) == 1 else f"the {len(found.designs)} groups of this design"
    if len(known) < len(smallest):
        finds = f"{where} cannot find even a drop to nothing with {format_percent(POWER)} power"
    else:
        low, high = format_points(min(known)), format_points(max(known))
        span = low if low == high else f"{low} to {high}"
        finds = f"{where} can find drops from {span} points on with {format_percent(POWER)} power"
    wanted = format_points(found.wanted)
    text = f"{finds[0].upper()}{finds[1:]}; the smallest of interest was declared as {wanted}."
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
