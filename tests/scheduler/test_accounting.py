"""Reading sacct's rows of time and resources."""

from __future__ import annotations

from datetime import datetime

import pytest

from emobench.scheduler import slurm_commands
from emobench.scheduler.interface import Accounted, Accounts
from emobench.scheduler.slurm_commands import parse_accounting, slurm_accounts


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            "7|100|110|170|billing=2,cpu=2,gres/gpu:h100=2,gres/gpu=2,mem=2G",
            [Accounted("7", 100, 110, 170, {"gpu:h100": 2, "gpu": 2})],
        ),
        ("8_1|100|110|Unknown|cpu=1", [Accounted("8_1", 100, 110, None, {})]),
        (
            "8_[2-3%4]|100|Unknown|Unknown|",
            [Accounted(f"8_{i}", 100, None, None, {}) for i in (2, 3)],
        ),
        ("9|100|None|120|", [Accounted("9", 100, None, 120, {})]),
        ("9|100|", []),
        ("", []),
    ],
)
def test_rows(row: str, expected: list[Accounted]) -> None:
    assert parse_accounting(row) == expected


def test_a_site_whose_sacct_prints_local_times() -> None:
    (row,) = parse_accounting("7|2026-11-21T05:00:00|2026-11-21T05:00:10|Unknown|")
    assert row.submitted == datetime(2026, 11, 21, 5).timestamp()
    assert row.started == row.submitted + 10


def test_a_sacct_that_cannot_be_asked_is_no_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        slurm_commands, "run_command", lambda command: (None, "Slurm accounting\noff")
    )
    assert slurm_accounts(["7"]) == Accounts({}, "Slurm accounting off")
