"""One offline HTML file of a run, readable from file:// while the run is still going on.

What models wrote is data: the template escapes everything, transcripts come in as compressed
JSON that the script shows as text only, and the page's own policy forbids any network request
and any script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from emobench.core.files import write_atomic
from emobench.core.run_dir import RunDir
from emobench.report import provenance, views
from emobench.report.blocks import Section, Table, list_blocks
from emobench.report.drawing import Figure, render_inline_svg
from emobench.report.interim import mark_interim
from emobench.report.library import Limit, describe_choice, dump_script_json
from emobench.report.sections.cost import build_cost_section
from emobench.report.sections.results import build_comparison_section, build_group_section
from emobench.report.sections.summary import build_overview_blocks, write_answers
from emobench.report.sections.talk import build_talk_section
from emobench.report.sections.trust import (
    build_fidelity_section,
    build_gate_section,
    build_manipulation_section,
    build_power_section,
)
from emobench.report.study import Study, build_study

FOLDER = Path(__file__).parent
SCRIPTS = ("library", "text", "compare", "filters", "list", "related", "pane", "main")
"""In the order in which they are run: a later part uses what an earlier one names."""
STYLES = ("report.css", "figures.css", "browser.css")
OPEN_GROUPS = 3
"""Of more groups the details are folded."""
FOLDER = Path(__file__).parent


def build_report(run_dir: RunDir, limit: Limit | None = None) -> Path:
    """Write runs/<name>/report.html, with the text of as many conversations as `limit` allows, and
    return its path.

    Raises InvalidInput where there is no plan, OSError where the file cannot be written.
    """
    return write_report(build_study(run_dir, limit))


def write_report(study: Study, path: Path | None = None) -> Path:
    """Write the page of a study that is built already and return its path, by default in the run
    directory.

    Raises OSError where it cannot be written.
    """
    # A lone surrogate, which a model can write, has no place in a UTF-8 file.
    text = _render_page(study).encode("utf-8", "replace").decode("utf-8")
    path = path or study.collected.run_dir.report
    write_atomic(path, text)
    return path


def build_sections(study: Study) -> list[Section]:
    """Return the sections in reading order; coverage, conversations and provenance have a form of
    their own."""
    groups = study.findings.groups
    found: list[Section] = []
    if len(groups) == 1:
        section = build_group_section(study, groups[0], "results", "")
        found.append(replace(section, title=f"Results: {section.title}"))
    else:
        parts = tuple(
            replace(
                build_group_section(study, group, f"group-{number}", f"g{number}-"),
                folded=len(groups) > OPEN_GROUPS,
            )
            for number, group in enumerate(groups, 1)
        )
        found.append(Section("results", "Results", tuple(build_overview_blocks(study)), parts))
    comparison = build_comparison_section(study)
    found += [comparison] if comparison else []
    trust = (
        build_manipulation_section(study),
        build_fidelity_section(study),
        build_power_section(study),
    )
    gates = build_gate_section(study)
    found.append(Section("trust", "Can it be trusted?", (), (gates, *trust)))
    found += [build_talk_section(study), build_cost_section(study)]
    return found if study.collected.is_complete else mark_interim(found)


def number_blocks(found: Sequence[Section]) -> Mapping[str, int]:
    """Return the numbers by 'figure-name' and 'table-name', each kind counted through the page.

    The table that holds a figure's own numbers has none.
    """
    numbers: dict[str, int] = {}
    counts = {"figure": 0, "table": 0}
    for block in list_blocks(found):
        if isinstance(block, Figure | Table) and not (isinstance(block, Table) and block.of):
            counts[block.kind] += 1
            numbers[f"{block.kind}-{block.name}"] = counts[block.kind]
    return numbers


def _render_page(study: Study) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawing"] = render_inline_svg
    environment.filters["code"] = _mark_code
    script, style = build_page_script(), build_page_style()
    return environment.get_template("report.html.j2").render(
        **_render_sections(study),
        script=script,
        style=style,
        policy=_build_content_policy(script, style),
        index=dump_script_json(study.library.build_index()),
        embedded_notice=describe_choice(study.library.choice),
        chunks=study.library.chunks,
    )


def _render_sections(study: Study) -> dict[str, Any]:
    collected = study.collected
    sweep = collected.plan.sweep
    found = build_sections(study)
    return {
        "sweep": sweep,
        "answers": write_answers(study),
        "notices": views.list_notices(study),
        "sections": found,
        "numbers": number_blocks(found),
        "coverage": views.build_coverage(collected),
        "unfinished": views.list_unfinished(collected),
        "facts": provenance.list_facts(study),
        "variants": [sweep.variants[name] for name in study.variants if name in sweep.variants],
        "prompts": study.prompts,
    }


def _mark_code(text: str) -> Markup:
    """Return the text escaped, with `commands` in the type of code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _build_content_policy(script: str, style: str) -> str:
    """Return the Content-Security-Policy: nothing is fetched; only this script and style run."""
    return (
        f"default-src 'none'; script-src '{_hash_text(script)}'; style-src '{_hash_text(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash_text(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def build_page_script() -> str:
    """Return the page's script: one function, so that no name of it is global."""
    parts = "\n".join(_read_part(f"browser/{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}}})();\n'


def build_page_style() -> str:
    """Return the page's style sheet."""
    return "\n".join(_read_part(name) for name in STYLES)


def _read_part(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
