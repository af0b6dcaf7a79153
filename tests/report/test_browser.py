"""The report in a real browser: reading, filtering, keys, and text that would like to run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from emobench.plan import load_plan
from emobench.report.render import build_report
from tests.report.chromium import Chromium, file_url
from tests.report.factory import append, episode, fill, make_run, summarise

ROWS = "document.querySelectorAll('#list li').length"
TITLE = "document.querySelector('#pane h3').textContent"
COUNT = "document.querySelector('#count').textContent"
PANE = "document.querySelector('#pane').textContent"

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "<svg onload=alert(3)>",
    "[click](javascript:alert(4)) javascript:alert(4)",
    "<a href='javascript:alert(5)'>x</a>",
    "<!--<script>",
    "{{ 7 * 7 }} {% raw %}",
    "\u2028\u2029</SCRIPT >",
    "<style>*{display:none}</style>",
    "<meta http-equiv=refresh content='0;url=https://example.com/'>",
    "<iframe src='https://example.com/'></iframe>",
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = make_run(tmp_path_factory.mktemp("runs") / "study", tasks=20, trials=2)
    cells = load_plan(run_dir).cells
    fill(run_dir, cells)
    return build_report(run_dir)


@pytest.fixture
def page(browser: Chromium, report: Path) -> Chromium:
    """The report, freshly opened, with its first conversation shown."""
    load(browser, report)
    return browser


def load(browser: Chromium, report: Path, fragment: str = "") -> None:
    browser.requests.clear()
    browser.problems.clear()
    browser.open(file_url(report, fragment))
    browser.wait_for("document.querySelector('#pane').childElementCount > 0")


def choose(page: Chromium, name: str, value: str) -> None:
    page.evaluate(
        f"(() => {{ const field = document.querySelector('#filters').elements['{name}'];"
        f" field.value = {value!r};"
        " field.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def quiet(page: Chromium) -> None:
    """Nothing was asked of any network, and nothing complained."""
    assert page.problems == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "about:"))] == []
    assert len([url for url in page.requests if url.startswith("file:")]) == 1


def test_opens_without_errors_and_without_the_network(page: Chromium) -> None:
    assert page.evaluate(COUNT) == "160 of 160 conversations"
    assert page.evaluate(TITLE) == "retail task 0, control, trial 1"
    quiet(page)


def test_rows_come_in_portions(page: Chromium) -> None:
    assert page.evaluate(ROWS) == 100
    page.evaluate("document.querySelector('#more').click()")
    assert page.evaluate(ROWS) == 160
    assert page.evaluate("document.querySelector('#more').hidden")


def test_filters_narrow_the_list(page: Chromium) -> None:
    choose(page, "variant", "frustration")
    page.wait_for(f"{COUNT} === '40 of 160 conversations'")
    choose(page, "task", "3")
    page.wait_for(f"{COUNT} === '2 of 160 conversations'")
    choose(page, "trial", "2")
    page.wait_for(f"{COUNT} === '1 of 160 conversations'")
    page.evaluate("document.querySelector('#filters button').click()")
    page.wait_for(f"{COUNT} === '160 of 160 conversations'")
    quiet(page)


def test_text_search_reads_every_conversation(page: Chromium) -> None:
    choose(page, "q", "THERMOSTAT FOR THE ONE THAT WORKS WITH GOOGLE HOME (ORDER 17)")
    page.wait_for(f"{COUNT} === '8 of 160 conversations'")
    choose(page, "q", "mechanical keyboard")
    page.wait_for(f"{COUNT} === '160 of 160 conversations'")
    choose(page, "q", "never said by anyone")
    page.wait_for(f"{COUNT} === '0 of 160 conversations'")


def test_a_row_opens_its_conversation(page: Chromium) -> None:
    page.evaluate("document.querySelectorAll('#list li')[2].click()")
    page.wait_for(f"{TITLE} === 'retail task 0, frustration, trial 1'")
    assert "The third time I write!" in page.evaluate(PANE)
    folds = page.evaluate(
        "[...document.querySelectorAll('#pane details')].map((fold) => fold.open)"
    )
    assert folds and not any(folds)
    assert "Agent policy" not in page.evaluate("document.querySelector('#pane').innerText")
    assert page.evaluate("location.hash").startswith("#episode=")


def test_keys_walk_through_the_list(page: Chromium) -> None:
    page.press("j")
    page.wait_for(f"{TITLE} === 'retail task 0, placebo, trial 1'")
    page.press("k")
    page.wait_for(f"{TITLE} === 'retail task 0, control, trial 1'")
    page.evaluate("document.querySelector('#list').focus()")
    for _ in range(2):
        page.press("ArrowDown")
    page.wait_for(f"{TITLE} === 'retail task 0, frustration, trial 1'")
    page.press("End")
    page.wait_for(f"{TITLE} === 'retail task 19, anxiety, trial 2'")
    selected = "document.querySelectorAll('#list [aria-selected=true]')"
    assert page.evaluate(f"{selected}.length") == 1
    active = "document.querySelector('#list').getAttribute('aria-activedescendant')"
    assert page.evaluate(f"{selected}[0].id === {active}")
    page.evaluate("document.querySelector('#filters').elements.q.focus()")
    page.press("k")
    assert page.evaluate(TITLE) == "retail task 19, anxiety, trial 2"


def test_deep_links(browser: Chromium, report: Path) -> None:
    load(browser, report)
    browser.evaluate("document.querySelectorAll('#list li')[50].click()")
    browser.wait_for("location.hash !== ''")
    wanted, fragment = browser.evaluate(f"({TITLE})"), browser.evaluate("location.hash.slice(1)")
    assert wanted != "retail task 0, control, trial 1"
    load(browser, report, fragment)
    assert browser.evaluate(TITLE) == wanted
    load(browser, report, "variant=anxiety&trial=2")
    browser.wait_for(f"{COUNT} === '20 of 160 conversations'")
    load(browser, report, "episode=nonesuch")
    assert "No conversation nonesuch" in browser.evaluate(PANE)


def test_counts_of_the_tables_lead_to_their_conversations(page: Chromium) -> None:
    link = "document.querySelector('#outcomes tbody tr:nth-child(3) td:nth-child(3) a')"
    count = page.evaluate(f"{link}.textContent")
    page.evaluate(f"{link}.click()")
    page.wait_for(f"{COUNT} === '{count} of 160 conversations'")
    page.wait_for("document.querySelector('#pane h3').textContent.includes('frustration')")


def test_nothing_that_a_model_wrote_is_run(browser: Chromium, tmp_path: Path) -> None:
    everything = " ".join(HOSTILE)
    run_dir = make_run(
        tmp_path / "hostile",
        variants=("control",),
        tasks=len(HOSTILE),
        trials=2,
        description=everything,
    )
    cell, failed = load_plan(run_dir).cells
    lines = []
    for task, text in enumerate(HOSTILE):
        call = {"function": {"name": text, "arguments": text}}
        traj = [
            {"role": "system", "content": text},
            {"role": "user", "content": text},
            {"role": "assistant", "content": text, "tool_calls": [call]},
            {"role": "tool", "name": text, "content": text},
            {"role": text, "content": text},
        ]
        error = {"type": text, "message": text}
        info = {"task": {"instruction": text}, text: text}
        lines.append(
            episode(cell, task, "agent_error", traj=traj, error=error, info=info, episode=text)
        )
    append(run_dir, cell, lines)
    summarise(run_dir, failed, "failed", exit_reason=everything, message=everything)
    report = build_report(run_dir)
    load(browser, report)
    scripts = browser.evaluate("document.scripts.length")
    for task, text in enumerate(HOSTILE):
        browser.evaluate(f"document.querySelectorAll('#list li')[{task}].click()")
        browser.wait_for(f"{TITLE} === 'retail task {task}, control, trial 1'")
        browser.evaluate("document.querySelectorAll('#pane details').forEach((d) => d.open = true)")
        shown = browser.evaluate("document.querySelector('#pane .said').textContent")
        assert shown == text
    assert HOSTILE[0] in browser.evaluate("document.querySelector('#coverage').innerText")
    foreign = "img, iframe, style, svg:not(.chart), a[href^=javascript], script, meta, object"
    assert (
        browser.evaluate(f"document.querySelectorAll('body > :not(script) :is({foreign})').length")
        == 0
    )
    assert browser.evaluate("document.scripts.length") == scripts == 3
    quiet(browser)


def test_the_policy_would_stop_what_slips_through(page: Chromium) -> None:
    stopped = page.evaluate(
        "new Promise((done) => { const stopped = [];"
        " document.addEventListener('securitypolicyviolation', (event) => {"
        " stopped.push(event.effectiveDirective); if (stopped.length === 2) done(stopped); });"
        " const script = document.createElement('script');"
        " script.textContent = 'window.ran = true'; document.body.append(script);"
        " const image = new Image(); image.src = 'https://example.com/x.png';"
        " document.body.append(image); })"
    )
    assert sorted(stopped) == ["img-src", "script-src-elem"]
    assert page.evaluate("window.ran") is None


def test_a_run_without_conversations(browser: Chromium, tmp_path: Path) -> None:
    load(browser, build_report(make_run(tmp_path / "fresh")))
    assert browser.evaluate(COUNT) == "No conversation yet."
    browser.press("j")
    quiet(browser)


def test_react_tool_answers_are_folded(browser: Chromium, tmp_path: Path) -> None:
    run_dir = make_run(
        tmp_path / "react", variants=("control",), strategies=("react",), tasks=1, trials=1
    )
    cell = load_plan(run_dir).cells[0]
    long_number = '{"price": 1.0, "id": 12345678901234567890}'
    traj = [
        {"role": "user", "content": "Hello, I want to know a price."},
        {"role": "assistant", "content": 'Action:\n{"name": "get"}'},
        {"role": "user", "content": f"API output: {long_number}"},
    ]
    append(run_dir, cell, [episode(cell, 0, traj=traj)])
    load(browser, build_report(run_dir))
    assert browser.evaluate("document.querySelectorAll('#pane .message.user').length") == 1
    # Numbers that JavaScript cannot hold are shown as they were written.
    assert long_number in browser.evaluate(PANE)


def test_a_conversation_is_printed_only_if_it_was_chosen(page: Chromium) -> None:
    height = "document.querySelector('#conversations').getBoundingClientRect().height"
    page.command("Emulation.setEmulatedMedia", media="print")
    try:
        assert page.evaluate(height) == 0
        page.evaluate("document.querySelectorAll('#list li')[1].click()")
        assert page.evaluate(height) > 0
    finally:
        page.command("Emulation.setEmulatedMedia", media="")


@pytest.mark.parametrize("options", [[], ["--dark", "--section", "results"]])
def test_the_screenshot_tool_writes_a_picture(
    executable: str, report: Path, tmp_path: Path, options: list[str]
) -> None:
    tool = Path(__file__).parents[2] / "tools" / "screenshot.py"
    out = tmp_path / "report.png"
    subprocess.run([sys.executable, str(tool), str(report), str(out), *options], check=True)
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_no_wider_than_the_window(page: Chromium, width: int) -> None:
    page.command(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=800,
        deviceScaleFactor=1,
        mobile=False,
    )
    try:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    finally:
        page.command("Emulation.clearDeviceMetricsOverride")
