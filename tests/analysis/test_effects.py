"""The findings of whole studies, and of those that hold next to nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from emobench.analysis.effects import Contrast, Findings, VariantFinding, estimate_effects
from emobench.analysis.stats.estimates import Difference, Mean, PassK
from emobench.analysis.stats.multiplicity import benjamini_hochberg, holm
from emobench.analysis.stats.sensitivity import LOST
from emobench.analysis.stats.units import make_frame
from emobench.core.plan import load_plan
from emobench.tables.table import load_tables
from tests.support.frames import Rewards, frame, observations, random_rewards
from tests.support.runs import fill, make_run


def found_for(findings: Findings, variant: str) -> VariantFinding:
    (group,) = findings.groups
    return next(each for each in group.variants if each.variant == variant)


def contrast_of(findings: Findings, variant: str) -> Contrast:
    contrast = found_for(findings, variant).contrast
    assert contrast is not None
    return contrast


STUDY = {
    "control": random_rewards(1, 40, 4),
    "anger": random_rewards(2, 40, 4, 0.6),
    "anxiety": random_rewards(3, 40, 4, 0.9, missing=0.1),
}


def test_a_study_says_what_each_number_is() -> None:
    findings = estimate_effects(frame(**STUDY))
    contrast = contrast_of(findings, "anger")
    difference = contrast.difference
    assert difference.label == (
        "difference in mean reward, anger minus control, 40 tasks x 4 trials, "
        "95 % interval clustered by task"
    )
    gaps = [
        np.mean([value for value in STUDY["anger"][task] if value is not None])
        - np.mean([value for value in STUDY["control"][task] if value is not None])
        for task in range(40)
    ]
    expected = stats.ttest_1samp(gaps, 0)
    assert difference.value == pytest.approx(np.mean(gaps))
    assert difference.t is not None
    assert difference.t.low == pytest.approx(expected.confidence_interval(0.95).low)
    assert difference.adjustment == "Holm over 2 variants"
    assert difference.p_adjusted is not None
    assert difference.p_permutation is not None
    assert difference.p_adjusted >= difference.p_permutation
    assert [each.k for each in found_for(findings, "anger").pass_k] == [1, 2, 3, 4]
    assert found_for(findings, "control").contrast is None
    outcome = contrast.outcomes[0]
    assert outcome.column == "solved"
    assert outcome.difference.value == pytest.approx(difference.value)
    assert "exploratory" in outcome.difference.adjustment


def test_rows_in_any_order_find_the_same() -> None:
    episodes = frame(**STUDY)
    names = ["control", "anger", "anxiety"]
    one = estimate_effects(episodes, variants=names).to_json()
    other = estimate_effects(episodes.sample(frac=1, random_state=1), variants=names).to_json()
    assert one == other


def test_findings_are_json_without_nan() -> None:
    text = json.dumps(estimate_effects(frame(**STUDY)).to_json(), allow_nan=False)
    assert json.loads(text)["schema_version"] == 1


def test_missing_rewards_as_failures_and_as_the_best_and_worst_they_could_be() -> None:
    control: Rewards = {task: [1, 1] for task in range(12)}
    anger: Rewards = {task: [1, 0 if task % 3 else None] for task in range(12)}
    by_rule = {
        each.rule: each.value
        for each in contrast_of(
            estimate_effects(frame(control=control, anger=anger)), "anger"
        ).sensitivity
    }
    main = contrast_of(estimate_effects(frame(control=control, anger=anger)), "anger").difference
    assert main.value == pytest.approx(-8 * 0.5 / 12)
    assert by_rule == {
        "as failure": pytest.approx(-0.5),
        "worst case": pytest.approx(-0.5),
        "best case": pytest.approx(-8 * 0.5 / 12),
        LOST: pytest.approx(-0.5),
    }
    lost: Rewards = {task: [1, None] for task in range(12)}
    bounds = contrast_of(estimate_effects(frame(control=lost, anger=control)), "anger").sensitivity
    assert [each.value for each in bounds] == [pytest.approx(x) for x in (0.5, 0.0, 0.5, 0.5)]


def test_the_bounds_enclose_every_other_treatment() -> None:
    study = {
        "control": random_rewards(4, 30, 4, missing=0.2),
        "anger": random_rewards(5, 30, 4, 0.7, missing=0.3),
    }
    contrast = contrast_of(estimate_effects(frame(**study)), "anger")
    failure, worst, best, lost = (each.value for each in contrast.sensitivity)
    assert lost == failure, "what is missing was lost, and nothing was run again"
    assert failure is not None
    assert worst is not None
    assert best is not None
    assert contrast.difference.value is not None
    assert worst <= min(failure, contrast.difference.value)
    assert best >= max(failure, contrast.difference.value)


def test_without_control_there_is_no_effect_but_a_reason() -> None:
    contrast = contrast_of(
        estimate_effects(frame(anger=STUDY["anger"], anxiety=STUDY["anxiety"])), "anger"
    )
    assert contrast.difference.value is None
    assert contrast.difference.reason == "no control in this group"
    assert contrast.difference.p_adjusted is None
    assert contrast.odds_ratio.reason == "no scored episode of control"


@pytest.mark.parametrize(
    "study",
    [
        {},
        {"control": {0: [1]}, "anger": {0: [0]}},
        {"control": {0: [None]}, "anger": {0: [None]}},
        {"control": {0: [1], 1: [1]}, "anger": {0: [1], 1: [1]}},
        {"control": {0: [1], 1: [0]}, "anger": {2: [1], 3: [0]}},
        {"control": {0: [1, 0], 1: [None, None]}, "anger": {0: [None, None], 1: [1, 0]}},
        {"anger": {0: [None, None], 1: [1, 0]}},
    ],
)
def test_degenerate_studies_have_reasons_and_no_interval_without_width(
    study: dict[str, Rewards],
) -> None:
    findings = estimate_effects(frame(**study))
    for group in findings.groups:
        for each in group.variants:
            estimates: list[Mean | PassK | Difference] = [each.mean, *each.pass_k]
            if each.contrast:
                estimates.append(each.contrast.difference)
            for estimate in estimates:
                assert estimate.interval is not None or estimate.reason
                for interval in (estimate.interval, getattr(estimate, "bootstrap", None)):
                    assert interval is None or interval.high > interval.low
    json.dumps(findings.to_json(), allow_nan=False)


def test_lengths_are_compared_by_task_over_scored_episodes() -> None:
    episodes = frame(
        control={t: [1, 0] for t in range(12)}, anger={t: [0, None] for t in range(12)}
    )
    steps = np.arange(len(episodes), dtype=float)
    steps[episodes["variant"] == "control"] = 5
    steps[episodes["variant"] == "anger"] = 8
    steps[episodes["reward"].isna()] = 1000
    findings = estimate_effects(episodes.assign(steps=steps))
    (mediator,) = contrast_of(findings, "anger").mediators
    assert mediator.column == "steps"
    assert mediator.difference.value == pytest.approx(3)
    assert found_for(findings, "anger").mediators[0].value == pytest.approx(8)
    assert found_for(findings, "anger").outcomes["infra_error"].value == pytest.approx(0.5)


def test_per_protocol_stands_second_and_says_what_it_is() -> None:
    episodes = frame(**STUDY)
    kept = np.random.default_rng(0).random(len(episodes)) < 0.7
    contrast = contrast_of(
        estimate_effects(episodes.assign(kept=kept), per_protocol="kept"), "anger"
    )
    alone = contrast_of(estimate_effects(episodes[kept]), "anger").difference
    assert contrast.per_protocol is not None
    assert contrast.per_protocol.value == pytest.approx(alone.value)
    assert contrast.per_protocol.label.endswith("per protocol")
    assert any("no longer comparable" in note for note in contrast.per_protocol.notes)
    assert contrast.difference.value == pytest.approx(
        contrast_of(estimate_effects(episodes), "anger").difference.value
    )
    assert contrast_of(estimate_effects(episodes), "anger").per_protocol is None


def test_an_interaction_is_the_difference_of_the_differences() -> None:
    draws = {
        (name, variant): random_rewards(number, 30, 4, share)
        for number, (name, variant, share) in enumerate(
            [("a", "control", 1.0), ("a", "anger", 0.5), ("b", "control", 0.9), ("b", "anger", 0.9)]
        )
    }
    findings = estimate_effects(
        make_frame(
            item
            for (name, variant), rewards in draws.items()
            for item in observations(rewards, variant, name)
        )
    )
    means = {key: np.mean([np.mean(v) for v in r.values()]) for key, r in draws.items()}  # type: ignore[arg-type]
    (interaction,) = findings.interactions
    expected = (means["a", "anger"] - means["a", "control"]) - (
        means["b", "anger"] - means["b", "control"]
    )
    assert interaction.difference.value == pytest.approx(expected)
    assert interaction.difference.label.startswith(
        "difference in the effect of anger on mean reward, a minus b, retail/react, 30 tasks"
    )
    compared = {each.variant: each.difference.value for each in findings.assistants}
    assert compared["control"] == pytest.approx(means["a", "control"] - means["b", "control"])
    assert interaction.difference.value == pytest.approx(
        (compared["anger"] or 0) - (compared["control"] or 0)
    )
    assert "exploratory" in interaction.difference.adjustment


def test_one_assistant_has_no_comparison() -> None:
    findings = estimate_effects(frame(**STUDY))
    assert (findings.assistants, findings.interactions) == ((), ())


def test_variants_stand_in_the_order_of_the_plan(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", variants=("frustration", "control", "anxiety"), trials=1)
    plan = load_plan(run)
    fill(run, plan.cells[:2])
    (group,) = estimate_effects(load_tables(run).episodes, planned=plan.cells).groups
    assert [each.variant for each in group.variants] == ["control", "frustration", "anxiety"]
    assert [each.mean.missing for each in group.variants] == [0, 0, 6]
    assert group.variants[2].mean.reason == "no scored episode"


def several_groups(count: int, names: tuple[str, ...] = ("control", "anger", "fear")) -> Findings:
    """Groups with the same tasks and no effect of anything."""
    return estimate_effects(
        make_frame(
            item
            for group in range(count)
            for place, name in enumerate(names)
            for item in observations(random_rewards(10 * group + place, 30, 4), name, f"a{group}")
        ),
        placebos=[name for name in names if name == "placebo"],
    )


def test_over_several_groups_the_family_is_all_comparisons() -> None:
    findings = several_groups(6)
    contrasts = [
        each.contrast for group in findings.groups for each in group.variants if each.contrast
    ]
    assert len(contrasts) == 12
    assert {each.overall.family for each in contrasts} == {
        "Holm over 12 comparisons (2 variants, 6 groups)"
    }
    assert {each.decision.family for each in contrasts} == {"Holm over 2 variants"}
    assert [each.overall.p_adjusted for each in contrasts] == holm(
        [each.difference.p_permutation for each in contrasts]
    )
    # A small p by group that is none over all groups.
    assert min(each.decision.p_adjusted or 0 for each in contrasts) < min(
        each.overall.p_adjusted or 0 for each in contrasts
    )


def test_groups_are_pooled_by_task() -> None:
    findings = several_groups(3)
    gaps = np.zeros(30)
    for group in range(3):
        base, anger = (random_rewards(10 * group + place, 30, 4) for place in (0, 1))
        for task in range(30):
            gaps[task] += (np.mean(anger[task]) - np.mean(base[task])) / 3  # type: ignore[arg-type]
    (anger_found,) = (each for each in findings.pooled if each.variant == "anger")
    expected = stats.ttest_1samp(gaps, 0)
    found = anger_found.difference
    assert found.value == pytest.approx(gaps.mean())
    assert found.p_t == pytest.approx(expected.pvalue)
    assert found.t is not None
    assert found.t.low == pytest.approx(expected.confidence_interval(0.95).low)
    assert (found.tasks, anger_found.groups, found.adjustment) == (30, 3, "Holm over 2 variants")
    assert anger_found.paired_mean.value is not None
    assert anger_found.paired_mean.value - (anger_found.baseline_mean.value or 0) == pytest.approx(
        found.value
    )


def test_placebo_is_compared_and_takes_no_place_among_the_emotions() -> None:
    names = ("control", "placebo", "anger", "fear")
    (group,) = several_groups(1, names).groups
    contrasts = {each.variant: each.contrast for each in group.variants if each.contrast}
    emotions = [contrasts[name] for name in ("anger", "fear")]
    assert [each.difference.p_adjusted for each in emotions] == holm(
        [each.difference.p_permutation for each in emotions]
    )
    placebo = contrasts["placebo"]
    assert placebo.difference.p_adjusted == placebo.difference.p_permutation
    assert placebo.over_placebo is None
    over = [each.over_placebo for each in emotions if each.over_placebo]
    assert [each.p_adjusted for each in over] == holm([each.p_permutation for each in over])
    for name, found in zip(("anger", "fear"), over, strict=True):
        place = names.index(name)
        rewards = [random_rewards(seed, 30, 4) for seed in (1, place)]
        gaps = [np.mean(rewards[1][t]) - np.mean(rewards[0][t]) for t in range(30)]  # type: ignore[arg-type]
        assert found.value == pytest.approx(np.mean(gaps))
        assert found.label.startswith(f"difference in mean reward, {name} minus placebo")


def test_pass_k_is_compared_on_the_tasks_of_which_both_have_k_trials() -> None:
    control = random_rewards(1, 30, 4, missing=0.1)
    anger = random_rewards(2, 30, 4, 0.6, missing=0.2)
    contrast = contrast_of(estimate_effects(frame(control=control, anger=anger)), "anger")
    assert [each.column for each in contrast.pass_k] == ["pass^2", "pass^3", "pass^4"]
    for k, each in enumerate(contrast.pass_k, 2):
        values = [
            {
                task: math.comb(sum(known), k) / math.comb(len(known), k)
                for task, row in rewards.items()
                if len(known := [int(value) for value in row if value is not None]) >= k
            }
            for rewards in (anger, control)
        ]
        common = sorted(set(values[0]) & set(values[1]))
        gaps = [values[0][task] - values[1][task] for task in common]
        expected = stats.ttest_1samp(gaps, 0)
        found = each.difference
        assert found.value == pytest.approx(np.mean(gaps))
        assert found.p_t == pytest.approx(expected.pvalue)
        assert found.t is not None
        assert found.t.low == pytest.approx(expected.confidence_interval(0.95).low)
        assert (found.tasks, found.left_out) == (
            len(common),
            len(set(values[0]) ^ set(values[1])),
        )
        assert found.label.startswith(f"difference in pass^{k}, anger minus control, ")
    assert [each.difference.p_adjusted for each in contrast.pass_k] == benjamini_hochberg(
        [each.difference.p_permutation for each in contrast.pass_k]
    )
