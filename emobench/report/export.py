"""`emobench report --export`: the report's figures and tables as files, and all results as JSON.

FOLDER/
  figures/<name>.svg, .pdf      PDF with the extra emobench[pdf]
  tables/<name>.csv, .tex       CSV: unrounded, one row a number, with the label that names it
  report.tex                    a document of all tables and figures
  findings.json                 everything: findings, gates, patterns, cost, provenance
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emobench import __version__
from emobench.analysis.assessment import to_json
from emobench.analysis.stats.estimates import to_plain
from emobench.analysis.transcript.tally import table_to_json
from emobench.core.errors import InvalidInput, Problem
from emobench.core.files import write_atomic, write_bytes_atomic
from emobench.report import latex, provenance, views
from emobench.report.blocks import Scalar, Table, list_blocks
from emobench.report.drawing import Figure, can_draw_pdf, render_pdf_file, render_svg_file
from emobench.report.render import build_sections
from emobench.report.study import Study
from emobench.scheduler import cost
from emobench.tables.csv_guard import guard_text

SCHEMA_VERSION = 1
FINDINGS = "findings.json"
NO_PDF = "no PDF of the figures: reportlab is not installed (pip install 'emobench[pdf]')"


def export(study: Study, folder: Path) -> tuple[list[Path], str]:
    """Write everything into `folder` and return the files, and a notice or an empty text.

    Raises InvalidInput where `folder` holds something else, OSError where the disk refuses.
    """
    _check(folder)
    blocks = list_blocks(build_sections(study))
    figures = [block for block in blocks if isinstance(block, Figure)]
    tables = [block for block in blocks if isinstance(block, Table)]
    with_pdf = can_draw_pdf()
    written = []
    for path, content in _list_files(study, figures, tables, with_pdf):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            write_bytes_atomic(target, content)
        else:
            # A lone surrogate, which a model can write, has no place in a UTF-8 file.
            write_atomic(target, content.encode("utf-8", "replace").decode("utf-8"))
        written.append(target)
    return written, "" if with_pdf else NO_PDF


def _check(folder: Path) -> None:
    """Refuse a folder that is something else than an earlier export."""
    if folder.is_dir() and (not any(folder.iterdir()) or (folder / FINDINGS).exists()):
        return
    if os.path.lexists(folder):
        raise InvalidInput(
            Problem(
                "this is there already and no export",
                file=str(folder),
                key="--export",
                hint="name a new folder; an earlier export may be written again",
            )
        )


def _list_files(
    study: Study, figures: Sequence[Figure], tables: Sequence[Table], with_pdf: bool
) -> Iterator[tuple[str, str | bytes]]:
    for figure in figures:
        yield f"figures/{figure.name}.svg", render_svg_file(figure)
        if with_pdf:
            yield f"figures/{figure.name}.pdf", render_pdf_file(figure)
    for table in tables:
        yield f"tables/{table.name}.csv", format_csv(list_records(table))
        yield f"tables/{table.name}.tex", latex.format_table(table)
    title = f"{study.collected.plan.sweep.name}: emobench report"
    names = [table.name for table in tables]
    yield "report.tex", latex.format_document(names, figures if with_pdf else (), title)
    data = json.dumps(findings_to_json(study), indent=1, ensure_ascii=True, allow_nan=False)
    yield FINDINGS, data + "\n"


def list_records(table: Table) -> tuple[Mapping[str, Scalar], ...]:
    """Return the unrounded numbers, or the cells as they are read where there are none."""
    if table.records:
        return table.records
    names = [head.text for head in table.head]
    return tuple(
        {name: f"{cell.text} {cell.detail}".strip() for name, cell in zip(names, row, strict=True)}
        for row in table.rows
    )


def format_csv(records: Sequence[Mapping[str, Scalar]]) -> str:
    """Return CSV with all columns that a record has; what is undefined is empty.

    A text that a spreadsheet would run as a formula has an apostrophe before it.
    """
    names = list(dict.fromkeys(name for record in records for name in record))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([guard_text(name) for name in names])
    for record in records:
        writer.writerow([_format_csv_cell(record.get(name)) for name in names])
    return out.getvalue()


def _format_csv_cell(value: Scalar) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    return guard_text(value) if isinstance(value, str) else str(value)


def findings_to_json(study: Study) -> dict[str, Any]:
    """Return everything, as JSON takes it."""
    plan = study.collected.plan
    accounted = None if study.runs else asdict(cost.sum_up(study.collected.cost))
    data: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "emobench": __version__,
        "sweep": plan.sweep.name,
        "benchmark": plan.benchmark,
        "provenance": dict(provenance.list_facts(study)),
        "variants": {
            name: {
                "version": each.version,
                "sha256": each.sha256,
                "text": each.text,
                "judged_as": each.judged_as,
            }
            for name, each in plan.sweep.variants.items()
        },
        "prompts": [asdict(each) for each in study.prompts],
        "runs": [dict(run) for run in study.runs],
        "interim": not study.collected.is_complete,
        "notices": views.list_notices(study),
        "left_out": dict(study.left_out),
        "sample": study.sample,
        "findings": study.findings.to_json(),
        "checks": {**to_json(study.checks), "slips": len(study.checks.slips)},
        "conversations": table_to_json(study.talk),
        "cost": accounted,
    }
    found: dict[str, Any] = to_plain(data)
    return found
