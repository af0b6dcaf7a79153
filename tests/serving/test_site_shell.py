"""Set-up lines are run as a job's script would run them."""

from __future__ import annotations

import pytest

from emobench.serving.site_shell import run_lines


def test_what_set_up_lines_print_holds_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SITES_TOKEN", "of-the-site-0123456789")
    ran = run_lines(["env; env >&2"], {}, "true", 30)
    assert ran.code == 0
    assert "A_SITES_TOKEN=[key]" in ran.output and "A_SITES_TOKEN=[key]" in ran.errors
