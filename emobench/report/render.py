"""One offline HTML file of a run, readable from file:// while the run is still going on.

What models wrote is data: the template escapes everything, transcripts come in as compressed
JSON that the script shows as text only, and the page's own policy forbids any network request
and any script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from emobench.core.files import write_atomic
from emobench.core.run_dir import RunDir
from emobench.report import page, provenance, svg, views
from emobench.report.embedding import Limit, notice
from emobench.report.script import script as own_script
from emobench.report.script import style as own_style
from emobench.report.sections.summary import answers
from emobench.report.study import Study, build_study
from emobench.report.transcripts import redactor, script_json
from emobench.tables.run_results import collect

FOLDER = Path(__file__).parent


def build_report(run_dir: RunDir, limit: Limit | None = None) -> Path:
    """Write runs/<name>/report.html, with the text of as many conversations as `limit` allows, and
    return its path.

    Raises InvalidInput where there is no plan, OSError where the file cannot be written.
    """
    return write_report(build_study(collect(run_dir), limit))


def write_report(study: Study) -> Path:
    """The page of a study that is built already. Raises OSError where it cannot be written."""
    # A lone surrogate, which a model can write, has no place in a UTF-8 file.
    text = _page(study).encode("utf-8", "replace").decode("utf-8")
    path = study.collected.run_dir.report
    write_atomic(path, text)
    return path


def _page(study: Study) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawing"] = svg.inline
    environment.filters["code"] = _with_code
    script, style = own_script(), own_style()
    return environment.get_template("report.html.j2").render(
        **_sections(study),
        script=script,
        style=style,
        policy=_policy(script, style),
        index=script_json(study.library.index()),
        embedded_notice=notice(study.library.choice),
        chunks=study.library.chunks,
    )


def _sections(study: Study) -> dict[str, Any]:
    collected = study.collected
    sweep = collected.plan.sweep
    found = page.sections(study)
    return {
        "sweep": sweep,
        "answers": answers(study),
        "notices": views.notices(study),
        "sections": found,
        "numbers": page.numbered(found),
        "coverage": views.coverage(collected),
        "unfinished": views.unfinished(collected, redactor(collected.run_dir)),
        "facts": provenance.facts(study),
        "variants": [sweep.variants[name] for name in study.variants if name in sweep.variants],
        "prompts": study.prompts,
    }


def _with_code(text: str) -> Markup:
    """Escaped, with `commands` in the type of code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _policy(script: str, style: str) -> str:
    """Content-Security-Policy: nothing is fetched; only this script and this style run."""
    return (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
