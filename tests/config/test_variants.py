"""The shipped texts: one skeleton for all of them, and those of 0.1 unchanged under their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from emobench.config.variants import load_builtin
from emobench.core.sweep import BUILTIN_VARIANTS, EARLIER_VARIANTS
from tests.support.sweep_files import SCRIPTED, load, problems

TEXTS = {name: load_builtin(name).text for name in BUILTIN_VARIANTS if name != "control"}
LINES = {name: text.splitlines() for name, text in TEXTS.items()}
TITLE, FEELING, COURSE, CONDUCT, CLOSING = range(5)
SHA256_OF_0_1 = {
    "placebo-v1": "0e0aad32b64b58a6d33174966d250640a13fd8c88afb6130a7db1bf06c22dc44",
    "frustration-v1": "5383afe6b63603d12ffac7c5e27d4b8a3f246492369a76695d84e77ddf4c2bf2",
    "anxiety-v1": "2eb722f93c9a97f77bb13fae007ec7d7c89a3dc76d90d03b5d7e24544bf0626e",
    "anger-v1": "5579c5456b5b6cdb4fcfed3b9dd05cd428a4d851fa33234d5b6067691d320aef",
    "confusion-v1": "4d7f4515530072b2c6d09abbf8d8d50fbeadfa800b5e8f1db4e33c55a0133688",
}


def test_control_adds_nothing() -> None:
    assert load_builtin("control").text == ""


def test_every_text_has_the_same_lines() -> None:
    assert {len(lines) for lines in LINES.values()} == {5}
    for place in (TITLE, CONDUCT, CLOSING):
        assert len({lines[place] for lines in LINES.values()}) == 1
    for place in (FEELING, COURSE):
        assert len({lines[place].count(".") for lines in LINES.values()}) == 1


def test_emotions_differ_in_the_line_of_the_feeling_alone() -> None:
    emotions = [lines for name, lines in LINES.items() if name != "placebo"]
    assert len({lines[COURSE] for lines in emotions}) == 1
    for name, lines in LINES.items():
        begins = "- You are in your usual mood." if name == "placebo" else "- You are "
        assert lines[FEELING].startswith(begins) and "It seems to you that" in lines[FEELING]


@pytest.mark.parametrize("measure", [len, lambda text: len(text.split())], ids=["length", "words"])
def test_texts_are_of_one_length(measure: object) -> None:
    assert callable(measure)
    sizes = [measure(text) for text in TEXTS.values()]
    assert max(sizes) <= 1.03 * min(sizes)


@pytest.mark.parametrize(
    "word",
    [
        "ask",
        "repeat",
        "short",
        "again",
        "explain",
        "agent",
        "message",
        "answer",
        "details",
        "order",
    ],
)
def test_a_feeling_prescribes_no_procedure(word: str) -> None:
    assert [name for name, lines in LINES.items() if word in lines[FEELING]] == []


@pytest.mark.parametrize("name", EARLIER_VARIANTS)
def test_the_texts_of_0_1_are_there_by_name(tmp_path: Path, name: str) -> None:
    variant = load(tmp_path, SCRIPTED.replace("anger", name)).variants[name]
    assert (variant.name, variant.version) == (name, "1")
    assert variant.sha256 == SHA256_OF_0_1[name]
    assert variant.judged_as == load_builtin(name.removesuffix("-v1")).judged_as


def test_a_variant_of_ones_own_says_what_it_is_judged_as(tmp_path: Path) -> None:
    own = "variants: {mild: {text: Be a bit cross., judged_as: %s}, other: Be late.}\n"
    text = SCRIPTED.replace("anger", "mild, other") + own
    variants = load(tmp_path, text % "anger").variants
    assert (variants["mild"].judged_as, variants["other"].judged_as) == ("anger", None)
    (problem,) = problems(tmp_path, text % "rage")
    assert problem.key == "variants.mild.judged_as" and "anger" in problem.allowed
