"""What `emobench report --export` writes: read back, and compared with the findings."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from emobench.cli.main import main
from emobench.core.errors import InvalidInput
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.report import export as exports
from emobench.report import latex
from emobench.report.blocks import Cell, Table, make_heads
from emobench.report.drawing import Figure, Text, render_pdf_file, render_svg_file
from emobench.report.export import FINDINGS, NO_PDF, export, format_csv
from emobench.report.study import Study, build_study
from tests.support.runs import append, episode, fill, make_run

HOSTILE = "a_b & 50 % of $x^2 #1 {\\input{/etc/passwd}} ~ <b> [t] \u2212 \U0001f600 \ud800"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    made = make_run(tmp_path_factory.mktemp("runs") / "study", tasks=12, trials=2)
    cells = load_plan(made).cells
    fill(made, cells[1:])
    append(made, cells[0], [episode(cells[0], task, "infra_error") for task in range(3)])
    return made


@pytest.fixture(scope="module")
def study(run_dir: RunDir) -> Study:
    return build_study(run_dir)


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("paper") / "export"
    files, notice = export(study, target)
    assert notice == ""
    assert sorted(files) == sorted(path for path in target.rglob("*") if path.is_file())
    return target


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_figures_are_svg_files_of_their_own(folder: Path) -> None:
    files = sorted((folder / "figures").glob("*.svg"))
    assert {"effects", "mean-reward", "pass-k", "tasks", "outcomes"} <= {f.stem for f in files}
    for file in files:
        root = ElementTree.fromstring(file.read_text(encoding="utf-8"))
        space = "{http://www.w3.org/2000/svg}"
        assert root.tag == f"{space}svg"
        assert root.findtext(f"{space}title") and root.findtext(f"{space}desc")
        width, height = float(root.attrib["width"]), float(root.attrib["height"])
        assert root.attrib["viewBox"] == f"0 0 {width:g} {height:g}"
        for text in root.iter(f"{space}text"):
            assert 0 <= float(text.attrib["x"]) <= width
            assert 0 <= float(text.attrib["y"]) <= height
        # Colours are fixed: no class that needs the page's style.
        assert not [each for each in root.iter() if "class" in each.attrib]


def test_figures_are_pdf_files_of_one_page_with_their_fonts(folder: Path) -> None:
    files = sorted((folder / "figures").glob("*.pdf"))
    assert [f.stem for f in files] == [f.stem for f in sorted((folder / "figures").glob("*.svg"))]
    for file in files:
        data = file.read_bytes()
        assert data.startswith(b"%PDF-1.")
        assert data.rstrip().endswith(b"%%EOF")
        assert len(re.findall(rb"/Type /Page\b(?!s)", data)) == 1
        assert b"/FontFile2" in data


def test_the_same_figure_is_the_same_file() -> None:
    figure = Figure("x", HOSTILE, HOSTILE, 200, 40, (Text(4, 20, HOSTILE),))
    assert render_pdf_file(figure) == render_pdf_file(figure)
    root = ElementTree.fromstring(render_svg_file(figure))
    assert "{\\input" in str(root[0].text)


def test_without_reportlab_the_rest_is_written(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "can_draw_pdf", lambda: False)
    files, notice = export(study, tmp_path / "x")
    assert notice == NO_PDF
    assert {file.suffix for file in files} == {".svg", ".csv", ".tex", ".json"}
    assert "includegraphics" not in (tmp_path / "x" / "report.tex").read_text()


def test_csv_holds_the_findings_unrounded(folder: Path, study: Study) -> None:
    (group,) = study.findings.groups
    main_rows = {row["variant"]: row for row in rows(folder / "tables" / "main.csv")}
    for each in group.variants:
        row = main_rows[each.variant]
        assert row["mean_label"] == each.paired_mean.label
        assert float(row["mean"]) == each.paired_mean.value
        assert int(row["missing"]) == each.mean.missing
        if each.contrast is None:
            assert row["difference"] == ""
            continue
        found = each.contrast.difference
        assert row["difference_label"] == found.label
        assert float(row["difference"]) == found.value
        assert found.interval is not None
        assert float(row["difference_low"]) == found.interval.low
        assert float(row["p_adjusted"]) == found.p_adjusted
    curve = rows(folder / "tables" / "pass-k.csv")
    assert [float(r["pass_k"]) for r in curve if r["variant"] == "anxiety"] == [
        each.value for v in group.variants if v.variant == "anxiety" for each in v.pass_k
    ]


def test_csv_runs_nothing_in_a_spreadsheet() -> None:
    text = format_csv([{"word": "=cmd|' /C calc'!A0", "z": -1.5, "few": True, "none": None}])
    assert list(csv.reader(io.StringIO(text)))[1] == ["'=cmd|' /C calc'!A0", "-1.5", "true", ""]


def test_json_holds_everything_without_nan(folder: Path, study: Study) -> None:
    def refuse(name: str) -> float:
        raise AssertionError(name)

    text = (folder / FINDINGS).read_text(encoding="utf-8")
    data = json.loads(text, parse_constant=refuse)
    assert data["schema_version"] == 1
    assert data["findings"] == json.loads(json.dumps(study.findings.to_json()))
    assert data["checks"]["verdict"] == study.checks.verdict
    assert [gate["gate"] for gate in data["checks"]["gates"]] == [
        gate.gate for gate in study.checks.gates
    ]
    assert set(data["variants"]) == set(study.variants)
    assert all(re.fullmatch(r"[0-9a-f]{64}", each["sha256"]) for each in data["prompts"])
    assert data["notices"][0].startswith("Scripted models")
    assert {"cost", "conversations", "provenance", "sample", "left_out"} <= set(data)


def well_formed(text: str) -> None:
    """Braces balance, environments close in order, and rows have as many cells as columns."""
    bare = re.sub(r"\\[\\{}&%$#_]", "", text)
    bare = "\n".join(line for line in bare.splitlines() if not line.startswith("%"))
    depth = 0
    for char in bare:
        depth += {"{": 1, "}": -1}.get(char, 0)
        assert depth >= 0
    assert depth == 0
    assert bare.count("$") % 2 == 0
    stack: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    columns = re.search(r"\\begin\{(?:tabular|longtable)\}\{@\{\}(.*)@\{\}\}", text)
    if columns:
        count = len(re.sub(r"\{[^}]*\}", "", columns[1]))
        body = text[columns.end() :]
        for line in body.splitlines():
            if line.endswith(r" \\") and "caption" not in line:
                assert len(re.findall(r"(?<!\\)&", line)) == count - 1, line


def test_latex_tables_are_well_formed(folder: Path) -> None:
    files = sorted((folder / "tables").glob("*.tex"))
    assert len(files) >= 12
    for file in files:
        text = file.read_text(encoding="utf-8")
        well_formed(text)
        for part in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{", r"\label{tab:"):
            assert part in text, file
    document = (folder / "report.tex").read_text(encoding="utf-8")
    well_formed(document)
    for path in re.findall(r"\\input\{(.*?)\}", document):
        assert (folder / path).exists()
    for path in re.findall(r"\\includegraphics\[.*?\]\{(.*?)\}", document):
        assert (folder / "figures" / path).exists()


def test_latex_prints_what_a_model_wrote() -> None:
    table = Table(
        "x_y", HOSTILE, make_heads(HOSTILE, "n"), ((Cell(HOSTILE), Cell("1", HOSTILE)),) * 60
    )
    text = latex.format_table(table)
    well_formed(text)
    assert "longtable" in text
    assert r"\input{" not in text
    assert r"a\_b \& 50 \% of \$x\textasciicircum{}2 \#1 \{\textbackslash{}input" in text
    assert text.isascii()
    assert r"\label{tab:x-y}" in text


def test_latex_compiles(folder: Path, tmp_path: Path) -> None:
    engine = shutil.which("tectonic") or shutil.which("pdflatex")
    if engine is None:
        pytest.skip("no LaTeX on this machine: the files were checked by their structure only")
    copy = shutil.copytree(folder, tmp_path / "x")
    subprocess.run([engine, "report.tex"], cwd=copy, check=True, stdin=subprocess.DEVNULL)


def test_a_folder_that_is_something_else_stays(study: Study, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="no export"):
        export(study, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("variants", [("control",), ("anger",), ("control", "anger")])
def test_a_run_without_results_is_exported(tmp_path: Path, variants: tuple[str, ...]) -> None:
    run = make_run(tmp_path / "fresh", variants=variants, tasks=2, trials=1)
    assert main(["report", str(run.path), "--export", str(tmp_path / "x")]) == 0
    data = json.loads((tmp_path / "x" / FINDINGS).read_text())
    (group,) = data["findings"]["groups"]
    assert [each["mean"]["value"] for each in group["variants"]] == [None] * len(variants)
    for file in (tmp_path / "x" / "tables").glob("*.tex"):
        well_formed(file.read_text())


def test_a_collected_folder_has_a_report(
    run_dir: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = [
        {
            "task_id": task,
            "reward": float(task % 2),
            "info": {"task": {"instruction": "x", "actions": [], "outputs": []}, "reward_info": {}},
            "traj": [
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "Hello."},
                {"role": "user", "content": "###STOP###"},
            ],
            "trial": 0,
        }
        for task in range(12)
    ]
    file = tmp_path / "gpt.json"
    file.write_text(json.dumps(published))
    folder = tmp_path / "both"
    options = ["--env", "retail", "--variant", "control", "--assistant", "gpt-4o"]
    assert main(["collect", str(run_dir.path), str(file), *options, "-o", str(folder)]) == 0
    assert main(["report", str(folder), "--export", str(tmp_path / "x")]) == 0
    assert str(folder / "report.html") in capsys.readouterr().out
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "published results" in text
    data = json.loads((tmp_path / "x" / FINDINGS).read_text())
    means = {
        group["assistant"]: [each["mean"]["value"] for each in group["variants"]]
        for group in data["findings"]["groups"]
    }
    assert means["gpt-4o"] == [0.5]
    assert not any(math.isnan(value) for each in means.values() for value in each)
    assert [run["published"] for run in data["runs"]] == [False, True]


def test_several_runs_have_to_be_collected_first(
    run_dir: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run_dir.path), str(run_dir.path)]) == 2
    assert "emobench collect" in capsys.readouterr().err
