"""Notices and coverage: how far the run has come, and what a reader has to know first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from emobench.analysis.pooled import list_variants
from emobench.core.redaction import redact_error
from emobench.core.wording import pluralise
from emobench.report.provenance import list_scripted_roles
from emobench.report.study import Study
from emobench.tables.run_results import CellResult, Collected

GLYPHS = {"done": "\u25cf", "partial": "\u25d0", "running": "\u25b7", "failed": "\u2715"}
MISSING_GLYPH = "\u25cb"
MOST_PROBLEMS = 50
MOST_ROWS = 400
"""Of the grid, a row a trial; beyond it the trials of a setting share a row."""


def list_notices(study: Study) -> list[str]:
    """Say what a reader has to know before the numbers, plainest first."""
    collected = study.collected
    found: list[str] = []
    if list_scripted_roles(collected):
        found.append(
            "Scripted models: this report tests the pipeline; it is no finding about any model."
        )
    if collected.cells and not any(result.file.episodes for result in collected.cells):
        found.append("No conversation yet: the sections say what they wait for.")
    states = Counter(result.state for result in collected.cells)
    open_cells = len(collected.cells) - states["done"]
    if open_cells:
        found.append(
            f"Not complete: results are still missing in {open_cells:,} of "
            f"{pluralise(len(collected.cells), 'cell')}. "
            "The numbers below are over the conversations that exist."
        )
    found += _list_probe_warnings(collected)
    found += _list_left_out(study)
    changed = _list_changed_texts(collected)
    if changed:
        found.append(
            "Mixed prompts: some conversations were run with another text of "
            f"{', '.join(changed)} than this plan holds. They are listed, and in no number."
        )
    versions = {collected.plan.benchmark}
    versions |= {r.benchmark for each in collected.cells for r in each.file.episodes}
    if len(versions) > 1:
        found.append(
            "Mixed benchmarks: the conversations were run with more than one version. Those of "
            "another than the plan's are listed, and in no number."
        )
    if study.sample is not None:
        found.append(
            f"Patterns, markers and fidelity rest on a sample of {study.sample:,} conversations of "
            "each variant in each group; rewards and outcomes are over all."
        )
    return found


def _list_left_out(study: Study) -> Iterator[str]:
    counts = study.left_out
    if any(counts.get(name) for name in ("damaged", "duplicates", "foreign", "repeated")):
        yield (
            f"Left out: {pluralise(counts['damaged'], 'damaged line')}, "
            f"{pluralise(counts['duplicates'] + counts.get('repeated', 0), 'repeated result')} and "
            f"{pluralise(counts['foreign'], 'conversation')} of another cell, task, variant text "
            "or benchmark."
        )


def _list_probe_warnings(collected: Collected) -> Iterator[str]:
    """Say what `probe: warn` let through."""
    found: Counter[tuple[str, str, str]] = Counter()
    for result in collected.cells:
        for role, probe in result.summary.probe.items() if result.summary else ():
            if probe.get("state") == "not_usable":
                name = role if role == "user" else result.cell.assistant
                found[(name, role, str(probe.get("verdict") or ""))] += 1
    for (name, role, verdict), cells in found.items():
        who = "user" if role == "user" else f"assistant {name}"
        yield (
            f"Probe: the {who} was not usable before {pluralise(cells, 'cell')} that ran all the "
            f"same (probe: warn): {verdict}"
        )


def build_coverage(collected: Collected) -> dict[str, Any]:
    """Return the grid: a row for each assistant, env, strategy and trial; a column for each
    variant."""
    variants = list_variants(result.cell for result in collected.cells)
    grid: dict[tuple[str, str, str, int], dict[str, CellResult]] = {}
    for result in collected.cells:
        cell = result.cell
        key = (cell.assistant, cell.env, cell.agent_strategy, cell.trial)
        grid.setdefault(key, {})[cell.variant] = result
    if len(grid) > MOST_ROWS:
        rows = _merge(grid, variants)
    else:
        rows = [
            {
                "key": key,
                "cells": [_summarise_cells([found[v]] if v in found else []) for v in variants],
            }
            for key, found in sorted(grid.items())
        ]
    states = Counter(result.state for result in collected.cells)
    legend = [
        {"state": state, "glyph": GLYPHS.get(state, MISSING_GLYPH), "count": states[state]}
        for state in ("done", "running", "partial", "failed", "missing")
    ]
    return {"variants": variants, "rows": rows, "legend": legend}


def _merge(
    grid: dict[tuple[str, str, str, int], dict[str, CellResult]], variants: list[str]
) -> list[dict[str, Any]]:
    """Return all trials of a setting in one row."""
    settings: dict[tuple[str, str, str], dict[str, list[CellResult]]] = {}
    for key, found in sorted(grid.items()):
        for variant, result in found.items():
            settings.setdefault(key[:3], {}).setdefault(variant, []).append(result)
    return [
        {"key": (*key, "all"), "cells": [_summarise_cells(found.get(v, [])) for v in variants]}
        for key, found in settings.items()
    ]


def list_unfinished(collected: Collected) -> dict[str, Any]:
    """Return cells whose summary gives a reason for what is missing, the first MOST_PROBLEMS of
    them."""
    found = [
        {
            "title": result.cell.title,
            "reason": result.summary.exit_reason or result.summary.status,
            "message": redact_error(result.summary.message),
        }
        for result in collected.cells
        if result.state != "done" and result.summary and result.summary.has_failed
    ]
    return {"shown": found[:MOST_PROBLEMS], "more": max(0, len(found) - MOST_PROBLEMS)}


def _summarise_cells(results: list[CellResult]) -> dict[str, Any] | None:
    """Return one cell, or the trials of a setting together; None where none is planned."""
    if not results:
        return None
    states = {result.state for result in results}
    state = results[0].state if len(states) == 1 else "partial"
    cell = results[0].cell
    one = len(results) == 1
    names = ("assistant", "env", "strategy", "variant", *(("trial",) if one else ()))
    summary = results[0].summary if one and state in ("failed", "partial") else None
    reason = summary.exit_reason if summary else ""
    lost = sum(result.infra_errors for result in results)
    infra = pluralise(lost, "infrastructure error") if lost else ""
    title = cell.title if one else pluralise(len(results), "cell")
    scored, expected = sum(r.scored for r in results), sum(r.expected for r in results)
    return {
        "state": state,
        "glyph": GLYPHS.get(state, MISSING_GLYPH),
        "count": f"{scored:,}/{expected:,}",
        "title": ", ".join(part for part in (title, state, reason, infra) if part),
        "link": "#" + urlencode(dict(zip(names, cell.key, strict=False)))
        if any(result.file.episodes for result in results)
        else "",
    }


def _list_changed_texts(collected: Collected) -> list[str]:
    variants = collected.plan.sweep.variants
    return sorted(
        {
            result.cell.variant
            for result in collected.cells
            for record in result.file.episodes
            if record.variant_sha256
            and result.cell.variant in variants
            and record.variant_sha256 != variants[result.cell.variant].sha256
        }
    )
