"""Gates and judge: declared in the sweep file, and no part of an episode's identity."""

from __future__ import annotations

from pathlib import Path

import pytest

from emobench.config.expand import expand
from emobench.config.identity import collect_cell_content, hash_content
from emobench.core.gates import Gates
from tests.support.sweep_files import SCRIPTED, load, problem

DECLARED = """\
gates: {coverage: 0.5, manipulation: {turns: 0.6}}
judge: {server: good, sample: 3}
"""


def test_thresholds_have_defaults_and_can_be_set(tmp_path: Path) -> None:
    assert load(tmp_path, SCRIPTED).gates == Gates()
    assert load(tmp_path, SCRIPTED).judge is None
    sweep = load(tmp_path, SCRIPTED + DECLARED)
    assert sweep.gates.coverage == 0.5
    assert sweep.gates.manipulation.turns == 0.6
    assert sweep.gates.manipulation.placebo == Gates().manipulation.placebo
    assert sweep.judge is not None and sweep.judge.server == "good"


def test_they_do_not_change_an_episode(tmp_path: Path) -> None:
    plain, declared = load(tmp_path, SCRIPTED), load(tmp_path, SCRIPTED + DECLARED)
    for cell in expand(plain):
        hashes = {
            hash_content(collect_cell_content(sweep, cell, "b 1"), 0) for sweep in (plain, declared)
        }
        assert len(hashes) == 1


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("gates: 0.9", "gates"),
        ("gates: {covrage: 0.9}", "gates.covrage"),
        ("gates: {coverage: 95}", "gates.coverage"),
        ("gates: {fidelity: {invented: -0.1}}", "gates.fidelity.invented"),
        ("judge: some/model", "judge"),
        ("judge: {model: m}", "judge.base_url"),
        ("judge: {base_url: 'http://x/v1'}", "judge.model"),
        ("judge: {server: nobody}", "judge.server"),
        ("judge: {server: user, model: m}", "judge.model"),
        ("judge: {model: m, base_url: 'ftp://x'}", "judge.base_url"),
        ("judge: {server: user, concurrency: 0}", "judge.concurrency"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, key: str) -> None:
    assert problem(tmp_path, f"{SCRIPTED}{text}\n").key == key
