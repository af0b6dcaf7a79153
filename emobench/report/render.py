"""One offline HTML file of a run, readable from file:// while the run is still going on.

What models wrote is data: the template escapes everything, transcripts come in as compressed
JSON that the script shows as text only, and the page's own policy forbids any network request
and any script but its own.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from emobench.files import write_atomic
from emobench.report import provenance, tables, views
from emobench.report.embedding import Limit, notice
from emobench.report.script import script as own_script
from emobench.report.script import style as own_style
from emobench.report.text import text_table
from emobench.report.transcripts import Library, build_library, script_json
from emobench.results.collect import Collected, collect
from emobench.rundir import RunDir

__all__ = ["build_report", "text_table"]

FOLDER = Path(__file__).parent


def build_report(run_dir: RunDir, limit: Limit | None = None) -> Path:
    """Write runs/<name>/report.html, with the text of as many conversations as `limit` allows, and
    return its path.

    Raises InvalidInput where there is no plan, OSError where the file cannot be written.
    """
    collected = collect(run_dir)
    library = build_library(collected, provenance.redactor(collected), limit)
    # A lone surrogate, which a model can write, has no place in a UTF-8 file.
    page = _page(collected, library).encode("utf-8", "replace").decode("utf-8")
    write_atomic(run_dir.report, page)
    return run_dir.report


def _page(collected: Collected, library: Library) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        rate=tables.rate, signed=tables.signed, bounds=tables.bounds, plural=tables.plural
    )
    script, style = own_script(), own_style()
    return environment.get_template("report.html.j2").render(
        **_sections(collected),
        script=script,
        style=style,
        policy=_policy(script, style),
        index=script_json(library.index()),
        embedded_notice=notice(library.choice),
        chunks=library.chunks,
    )


def _sections(collected: Collected) -> dict[str, Any]:
    results = views.results(collected)
    sweep = collected.plan.sweep
    return {
        "sweep": sweep,
        "headline": views.headline(collected),
        "notices": views.notices(collected),
        "results": results,
        "ks": tables.ks_of(sweep.trials),
        "outcome_rows": views.outcome_table(results[0].rows),
        "coverage": views.coverage(collected),
        "unfinished": views.unfinished(collected, provenance.redactor(collected)),
        "facts": provenance.facts(collected),
        "variants": [
            sweep.variants[name] for name in _variant_names(collected) if name in sweep.variants
        ],
    }


def _variant_names(collected: Collected) -> list[str]:
    return tables.variants_of([result.cell for result in collected.cells])


def _policy(script: str, style: str) -> str:
    """Content-Security-Policy: nothing is fetched; only this script and this style run."""
    return (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
