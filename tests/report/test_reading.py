"""A report reads each conversation once, for its page, its patterns and its checks together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from emobench.analysis import assessment
from emobench.analysis.transcript import conversation, fault
from emobench.analysis.transcript.fidelity import check_fidelity
from emobench.benchmarks.transcript import parse_transcript
from emobench.core.files import open_to_read, parse_json
from emobench.core.plan import load_plan
from emobench.report.library import Limit
from emobench.report.render import build_report
from emobench.report.study import build_study
from emobench.store import appending, episodes
from emobench.tables.run_results import collect
from tests.support.runs import fill, make_run


def test_each_conversation_is_parsed_and_checked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = make_run(tmp_path / "run", tasks=6, trials=2)
    fill(run_dir, load_plan(run_dir).cells)
    known = collect(run_dir)
    failed = sum(r.outcome != "solved" for each in known.cells for r in each.file.episodes)
    assert failed > 10
    counts: Counter[str] = Counter()

    def counted(name: str, function: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            counts[name] += 1
            return function(*given, **named)

        return call

    parsed = counted("parsed", parse_transcript)
    monkeypatch.setattr(conversation, "parse_transcript", parsed)
    checked = counted("checked", check_fidelity)
    for module in (assessment, fault):
        monkeypatch.setattr(module, "check_fidelity", checked)
    monkeypatch.setattr(episodes, "parse_json", counted("read", parse_json))
    opened: Counter[Path] = Counter()

    def watched(stock: Any) -> Any:
        def open_(path: Path, *given: Any, **named: Any) -> Any:
            opened[path] += path.name == "episodes.jsonl"
            return stock(path, *given, **named)

        return open_

    monkeypatch.setattr(Path, "open", watched(Path.open))
    monkeypatch.setattr(appending, "open_to_read", watched(open_to_read))
    study = build_study(run_dir)
    assert len(study.library.texts) == study.library.choice.of_conversations == 48
    assert counts == {"parsed": 48, "checked": 48, "read": 48}
    assert {opened[run_dir.cell(cell.number).episodes] for cell in study.cells} == {1}


def test_what_the_page_leaves_out_is_checked_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = make_run(tmp_path / "run", tasks=6, trials=2)
    fill(run_dir, load_plan(run_dir).cells)
    whole, bare = build_study(run_dir), build_study(run_dir, Limit(0, None))
    assert (len(bare.library.texts), len(bare.library.chunks)) == (0, 0)
    assert bare.talk == whole.talk
    assert bare.checks == whole.checks
    # And a sample for the checks holds nothing from the page.
    monkeypatch.setattr("emobench.report.study.MOST_READ", 16)
    part = build_study(run_dir)
    assert part.sample == 4
    assert part.library.texts == whole.library.texts
    assert sum(part.talk.conversations.values()) + sum(part.talk.missing.values()) == 16


def test_damaged_records_of_jobs_cost_the_report_only_its_hours(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", tasks=2)
    fill(run_dir, load_plan(run_dir).cells)
    whole = build_study(run_dir)
    run_dir.jobs.write_text('{"schema": 1, "jobs": [{"kind":')
    damaged = build_study(run_dir)
    assert damaged.findings == whole.findings
    assert "cannot be read" in damaged.collected.cost.problem
    assert build_report(run_dir).stat().st_size > 0
