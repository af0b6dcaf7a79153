"""The report's figures and tables: what they say, checked against numbers computed anew."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from math import comb
from pathlib import Path

import pytest

from emobench.core.models import ScriptedModel
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.report.drawing import render_inline_svg
from emobench.report.numbers import format_change, format_interval, format_number, format_p
from emobench.report.render import build_report, write_report
from emobench.report.sections.common import shorten_labels
from emobench.report.study import Study, build_study, choose_sample_size
from emobench.report.views import build_coverage
from emobench.tables.run_results import collect
from tests.support.chromium import Chromium, file_url
from tests.support.runs import append, episode, fill, make_run, summarise

LOST = 5
"""Tasks of the last cell that the infrastructure lost."""
SECTIONS = (
    "results",
    "pass-k-section",
    "tasks",
    "outcomes",
    "mediators",
    "sensitivity",
    "protocol",
    "trust",
    "gates",
    "manipulation",
    "fidelity",
    "power",
    "talk",
    "patterns",
    "words",
    "faults",
    "cost",
    "coverage",
    "conversations",
    "provenance",
)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    made = make_run(tmp_path_factory.mktemp("runs") / "study", tasks=14, trials=3)
    cells = load_plan(made).cells
    fill(made, cells[:-1])
    last = cells[-1]
    lines = [episode(last, task, "infra_error" if task < LOST else "failed") for task in last.tasks]
    append(made, last, lines)
    return made


@pytest.fixture(scope="module")
def study(run_dir: RunDir) -> Study:
    return build_study(run_dir)


@pytest.fixture(scope="module")
def report(study: Study) -> Path:
    return write_report(study)


@pytest.fixture(scope="module")
def page(browser: Chromium, report: Path) -> Chromium:
    browser.requests.clear()
    browser.problems.clear()
    browser.open(file_url(report))
    browser.wait_for("document.querySelector('#pane').childElementCount > 0")
    return browser


def rewards(run_dir: RunDir) -> dict[str, dict[int, list[float]]]:
    """By variant and task, straight from the files."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in collect(run_dir).cells:
        for record in result.file.episodes:
            if record.reward is not None:
                found[result.cell.variant][record.task_id].append(record.reward)
    return found


def rows(page: Chromium, table: str) -> dict[str, list[str]]:
    """The cells of a table's rows, by their head (without what stands behind it)."""
    script = (
        f"[...document.querySelectorAll('#table-{table} tbody tr')].map((row) => "
        "[row.firstElementChild.firstChild.textContent, "
        "...[...row.children].slice(1).map((cell) => cell.innerText.trim())])"
    )
    return {row[0].strip(): row[1:] for row in page.evaluate(script)}


def test_every_section_is_there_and_the_console_is_silent(page: Chromium) -> None:
    for section in SECTIONS:
        assert page.evaluate(f"!!document.getElementById({section!r})"), section
    links = page.evaluate(
        "[...document.querySelectorAll('header nav a')].map((a) => a.hash.slice(1))"
    )
    assert links and all(page.evaluate(f"!!document.getElementById({link!r})") for link in links)
    names = page.evaluate("[...document.querySelectorAll('[id]')].map((each) => each.id)")
    assert len(names) == len(set(names))
    assert page.problems == []
    assert not [u for u in page.requests if not u.startswith(("file:", "data:", "about:"))]


def test_every_figure_has_its_words(page: Chromium) -> None:
    figures = page.evaluate(
        "[...document.querySelectorAll('figure svg.chart')].map((svg) => {"
        " const [title, desc] = svg.getAttribute('aria-labelledby').split(' ')"
        "  .map((id) => document.getElementById(id).textContent);"
        " return [svg.getAttribute('role'), title, desc,"
        "  svg.closest('figure').querySelector('figcaption').innerText]; })"
    )
    assert len(figures) >= 5
    for number, (role, title, description, caption) in enumerate(figures, 1):
        assert role == "img"
        assert title and description
        assert caption.startswith(f"Figure {number}.")


def test_means_differences_and_pass_k_are_those_of_the_files(
    page: Chromium, run_dir: RunDir
) -> None:
    by_variant = rewards(run_dir)
    main, curve = rows(page, "main"), rows(page, "pass-k")
    control = {task: statistics.mean(each) for task, each in by_variant["control"].items()}
    for variant, tasks in by_variant.items():
        everything = [reward for each in tasks.values() for reward in each]
        assert main[variant][0].startswith(f"{len(everything)} of 42")
        assert main[variant][2].startswith(format_number(statistics.mean(everything)))
        for k in (1, 2, 3):
            known = [
                comb(int(sum(each)), k) / comb(len(each), k)
                for each in tasks.values()
                if len(each) >= k
            ]
            assert curve[variant][k - 1].startswith(format_number(statistics.mean(known)))
        if variant == "control":
            continue
        gaps = [statistics.mean(each) - control[task] for task, each in tasks.items()]
        mean, error = statistics.mean(gaps), statistics.stdev(gaps) / len(gaps) ** 0.5
        low, high = mean - 2.1603687 * error, mean + 2.1603687 * error  # t(0.975, 13)
        assert (
            main[variant][3]
            == f"{format_change(mean)} [{format_change(low)}, {format_change(high)}]"
        )
    assert main["anxiety"][1] == str(LOST)


def test_the_page_shows_the_findings(page: Chromium, study: Study) -> None:
    (group,) = study.findings.groups
    main = rows(page, "main")
    forest = page.evaluate("document.querySelector('#figure-effects').textContent")
    for each in group.variants:
        assert (
            main[each.variant][2]
            == f"{format_number(each.mean.value)} {format_interval(each.mean.interval)}"
        )
        if each.contrast is not None:
            found = each.contrast.difference
            assert main[each.variant][4] == format_p(found.p_adjusted)
            assert found.label in forest
            assert (
                f"{format_change(found.value)}  {format_interval(found.interval, change=True)}"
                in forest
            )
    sensitivity = rows(page, "sensitivity")["anxiety"]
    anxiety = next(each for each in group.variants if each.variant == "anxiety")
    assert anxiety.contrast is not None
    assert [cell.split(" ")[0] for cell in sensitivity[2:]] == [
        format_change(each.value) for each in anxiety.contrast.sensitivity
    ]


def test_a_failed_gate_stands_beside_the_effect(page: Chromium, study: Study) -> None:
    (group,) = study.findings.groups
    marks = {mark.gate for mark in study.find_labels(group, "anxiety") if mark.verdict == "failed"}
    assert {"coverage", "power"} <= marks  # 9 of 42 are not there, and 14 tasks are few
    shown = rows(page, "main")["anxiety"][-1]
    assert all(gate in shown for gate in marks)
    assert "not checked: manipulation" in shown
    beside = shorten_labels(study.find_labels(group, "anxiety"))
    figure = page.evaluate("document.querySelector('#figure-effects').textContent")
    assert beside.startswith("fails ") and beside in figure
    listed = page.evaluate("document.querySelector('#results').innerText")
    assert "is not checked by the manipulation gate" in listed


def test_outcomes_lead_to_their_conversations(page: Chromium) -> None:
    count = page.evaluate("document.querySelector('#table-outcomes tbody a').textContent")
    page.evaluate("document.querySelector('#table-outcomes tbody a').click()")
    page.wait_for("document.querySelector('#count').textContent.startsWith('" + count + " of')")


def test_the_first_page_answers(page: Chromium) -> None:
    text = page.evaluate("document.querySelector('.answers').innerText")
    assert "163 of 168 planned conversations have a result." in text
    assert "Mean reward with control is" in text
    assert "14 tasks \u00d7 3 trials" in text
    assert "underpowered" in text
    assert "no finding about any model" in text


def test_on_paper_the_groups_and_figures_stay(page: Chromium) -> None:
    page.command("Emulation.setEmulatedMedia", media="print")
    try:
        assert page.evaluate("document.querySelector('#figure-effects svg').clientHeight") > 50
        assert page.evaluate("document.querySelector('header nav').clientHeight") == 0
    finally:
        page.command("Emulation.setEmulatedMedia", media="")


def test_a_run_that_has_begun_says_what_is_missing(tmp_path: Path, browser: Chromium) -> None:
    run = make_run(tmp_path / "begun", tasks=3, trials=2)
    cell = load_plan(run).cells[0]
    append(run, cell, [episode(cell, 0)])
    summarise(
        run,
        cell,
        "running",
        probe={"user": {"state": "not_usable", "verdict": "it <b>never</b> stops"}},
    )
    browser.problems.clear()
    browser.open(file_url(build_report(run)))
    browser.wait_for("document.querySelector('#pane').childElementCount > 0")
    text = browser.evaluate("document.body.innerText")
    assert "Probe: the user was not usable before 1 cell that ran all the same" in text
    assert "it <b>never</b> stops" in text
    assert "No variant can be compared with it yet." in text
    assert "no task has a value on both sides" in text
    assert "No task has two scored trials" in text
    assert browser.problems == []


def test_more_conversations_than_are_read_become_a_sample(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_sample_size(load_plan(run_dir)) is None
    monkeypatch.setattr("emobench.report.study.MOST_READ", 40)
    part = build_study(run_dir)
    assert part.sample == 10
    assert sum(part.talk.conversations.values()) + sum(part.talk.missing.values()) == 40
    whole = build_study(run_dir)
    assert part.findings.groups[0].variants[0].mean == whole.findings.groups[0].variants[0].mean
    text = re.sub(r"<[^>]*>", " ", write_report(part).read_text(encoding="utf-8"))
    assert "rest on a sample of 10 conversations of each variant" in " ".join(text.split())


def test_words_of_a_model_are_text_in_a_figure(study: Study) -> None:
    from emobench.report.figures import Dot, draw_forest, make_share_axis

    hostile = "</svg><script>alert(1)</script>"
    dot = Dot(hostile, 0.5, None, hostile, hostile, caption=hostile)
    drawn = render_inline_svg(
        draw_forest("x", hostile, [dot], make_share_axis(hostile, None), caption=hostile)
    )
    assert "<script" not in drawn
    assert drawn.count("</svg>") == 1


def test_assistants_and_interactions_are_compared(tmp_path: Path, browser: Chromium) -> None:
    run = make_run(
        tmp_path / "two",
        variants=("control", "frustration"),
        assistants={"first": ScriptedModel(), "second": ScriptedModel()},
        tasks=12,
        trials=2,
    )
    fill(run, load_plan(run).cells)
    study = build_study(run)
    browser.problems.clear()
    browser.open(file_url(write_report(study)))
    browser.wait_for("document.querySelector('#pane').childElementCount > 0")
    (interaction,) = study.findings.interactions
    shown = rows(browser, "interaction")["first minus second"]
    found = interaction.difference
    written = f"{format_change(found.value)} {format_interval(found.interval, change=True)}"
    assert shown[3].replace("\u2020", "") == written
    assert "fails " in shown[2] and "power" in shown[2]
    assert len(study.findings.groups) == 2
    overview = browser.evaluate("document.querySelector('#figure-overview').textContent")
    for group in study.findings.groups:
        (effect,) = [each.contrast for each in group.variants if each.contrast]
        assert effect.difference.label in overview
        title = f"{group.env} / {group.assistant} / {group.agent_strategy}: mean reward"
        assert title in browser.evaluate("document.querySelector('.answers').innerText")
    assert browser.problems == []


def test_the_trials_of_a_long_sweep_share_a_row(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected = collect(run_dir)
    apart = build_coverage(collected)
    assert [row["key"][3] for row in apart["rows"]] == [1, 2, 3]
    monkeypatch.setattr("emobench.report.views.MOST_ROWS", 2)
    (row,) = build_coverage(collected)["rows"]
    assert row["key"] == ("scripted", "retail", "tool-calling", "all")
    assert [cell["count"] for cell in row["cells"]] == ["42/42", "42/42", "42/42", "37/42"]
    assert [cell["state"] for cell in row["cells"]] == ["done", "done", "done", "partial"]
    assert "trial" not in row["cells"][0]["link"]
