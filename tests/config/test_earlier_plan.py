"""A plan that emobench 0.1 wrote is read, and its episodes keep their identity.

plan-0.1.json was made of plan-0.1.yaml by commit de182d7, whose hashes these are. Since then
`end_at_empty_reply` has its name and is off by default, so that the file has it on.
"""

from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path

from emobench.config.earlier_defaults import keep_earlier_defaults
from emobench.config.expand import expand
from emobench.config.identity import collect_cell_content, hash_content
from emobench.config.load import load_profile, load_sweep
from emobench.core.plan import Plan, load_plan, save_plan
from emobench.core.run_dir import RunDir

PLAN = Path(__file__).with_name("plan-0.1.json")
FIRST = "8d2c5bc117ae58f94fcf91bb89af8757287aa1731b01eed15a57361aca2c5535"
ALL = "32bd212863dee2d62dd9188a5129a2a4835bff71b0f754babe60a611fe7b2973"


def read(folder: Path) -> Plan:
    shutil.copy(PLAN, folder / "plan.json")
    return load_plan(RunDir(folder))


def test_it_is_read_as_it_was_meant(tmp_path: Path) -> None:
    plan = read(tmp_path)
    sweep = keep_earlier_defaults(load_sweep(PLAN.with_suffix(".yaml")), plan.sweep)
    assert plan.sweep == sweep.model_copy(update={"name": "study"})
    assert plan.profile == load_profile("sol-gaudi")
    assert list(plan.cells) == expand(sweep)
    assert [(block.name, block.size) for block in plan.blocks] == [
        ("small", 26),
        ("hosted", 12),
        ("scripted", 24),
    ]


def test_its_episodes_keep_their_identity(tmp_path: Path) -> None:
    plan = read(tmp_path)
    hashes = [
        hash_content(collect_cell_content(plan.sweep, c, plan.benchmark), 0) for c in plan.cells
    ]
    assert hashes[0] == FIRST
    assert sha256("".join(hashes).encode()).hexdigest() == ALL


def test_it_is_written_as_it_was(tmp_path: Path) -> None:
    plan = read(tmp_path)
    save_plan(RunDir(tmp_path), plan)
    assert load_plan(RunDir(tmp_path)) == plan
