"""Text that would like to run, to hide or to be endless, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from emobench.core.plan import load_plan
from emobench.report.render import build_report
from tests.support.chromium import Chromium
from tests.support.report_pages import COUNT, TITLE, TWO, choose, click_row, load, quiet
from tests.support.runs import append, episode, make_run, summarise

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
    "<details open ontoggle=alert(6)><summary>x</summary></details>",
    "' onmouseover='alert(7)' x='",
    '" autofocus onfocus="alert(8)',
    "__proto__",
    "$& $1 $`",
)
UNSEEN = "a\u202eb\u0000c\u200bd\u2066e\ufefff\u001b[31mg" + "\u202d" * 10_000


def transcript(text: str) -> list[dict[str, object]]:
    call = {"id": "1", "function": {"name": text, "arguments": text}}
    return [
        {"role": "system", "content": text},
        {"role": "user", "content": text},
        {"role": "assistant", "content": text},
        {"role": "user", "content": text},
        {"role": "assistant", "content": text, "tool_calls": [call]},
        {"role": "tool", "name": text, "content": text, "tool_call_id": "1"},
        {"role": text, "content": text},
    ]


def test_nothing_that_a_model_wrote_is_run(browser: Chromium, tmp_path: Path) -> None:
    everything = " ".join(HOSTILE)
    run_dir = make_run(
        tmp_path / "hostile",
        variants=("control", "anger"),
        tasks=len(HOSTILE),
        trials=2,
        description=everything,
    )
    control, anger, failed, _ = load_plan(run_dir).cells
    for cell in (control, anger):
        lines = []
        for task, text in enumerate(HOSTILE):
            error = {"type": text, "message": text}
            info = {"task": {"instruction": text}, text: text}
            lines.append(
                episode(
                    cell,
                    task,
                    "agent_error",
                    traj=transcript(text if cell is control else f"{text} {everything}"),
                    error=error,
                    info=info,
                    episode=text if cell is control else f"{text} beside",
                )
            )
        append(run_dir, cell, lines)
    summarise(run_dir, failed, "failed", exit_reason=everything, message=everything)
    load(browser, build_report(run_dir))
    scripts = browser.evaluate("document.scripts.length")
    for task, text in enumerate(HOSTILE):
        choose(browser, "task", str(task))
        browser.wait_for(f"{COUNT} === '2 of {2 * len(HOSTILE)} conversations'")
        click_row(browser, 1, f"retail task {task}, anger, trial 1")
        assert browser.evaluate(TWO)
        browser.evaluate("document.querySelectorAll('#pane details').forEach((d) => d.open = true)")
        assert browser.evaluate("document.querySelector('#pane .said').textContent") == text
    choose(browser, "q", "<script>")
    choose(browser, "task", "")
    browser.wait_for(f"{COUNT} === '{len(HOSTILE) + 2} of {2 * len(HOSTILE)} conversations'")
    choose(browser, "task", "0")
    browser.wait_for(f"{COUNT} === '2 of {2 * len(HOSTILE)} conversations'")
    click_row(browser, 0, "retail task 0, control, trial 1")
    assert browser.evaluate("document.querySelectorAll('#pane mark').length") > 0
    assert HOSTILE[0] in browser.evaluate("document.querySelector('#coverage').innerText")
    foreign = "img, iframe, style, svg:not(.chart), a[href^=javascript], script, meta, object"
    assert (
        browser.evaluate(f"document.querySelectorAll('body > :not(script) :is({foreign})').length")
        == 0
    )
    handlers = (
        "[...document.querySelectorAll('body *')].flatMap((each) => each.getAttributeNames())"
    )
    assert browser.evaluate(f"{handlers}.filter((name) => name.startsWith('on'))") == []
    assert browser.evaluate("document.scripts.length") == scripts == 3
    quiet(browser)


@pytest.mark.parametrize("text", ["x" * 1_000_000, "<b> " * 100_000, "a\u202e" * 60_000])
def test_an_endless_line_is_cut_until_it_is_asked_for(
    browser: Chromium, tmp_path: Path, text: str
) -> None:
    run_dir = make_run(tmp_path / "long", variants=("control",), tasks=1, trials=1)
    cell = load_plan(run_dir).cells[0]
    append(run_dir, cell, [episode(cell, 0, traj=transcript(text))])
    load(browser, build_report(run_dir))
    said = "document.querySelector('#pane .said')"
    whole = f"{said}.querySelector('.whole')"
    assert f"show all {len(text):,} characters" in browser.evaluate(f"{whole}.textContent")
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    browser.evaluate(f"{whole}.click()")
    assert browser.evaluate(f"{said}.textContent.replaceAll('U+202E', '-').length") == len(text)
    quiet(browser)


def test_characters_that_show_nothing_are_named(browser: Chromium, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "unseen", variants=("control",), tasks=1, trials=1)
    cell = load_plan(run_dir).cells[0]
    append(run_dir, cell, [episode(cell, 0, traj=transcript(UNSEEN))])
    load(browser, build_report(run_dir))
    page = "document.querySelector('#conversations').textContent"
    named = "aU+202EbU+0000cU+200BdU+2066eU+FEFFfU+001B[31mg"
    run = " ".join(["U+202D"] * 8)
    assert browser.evaluate("document.querySelector('#pane .said').textContent") == (
        f"{named}{run} and 9,992 more"
    )
    assert named in browser.evaluate("document.querySelector('#list li').textContent")
    assert not browser.evaluate(f"/[\\u202e\\u0000\\u200b\\u2066\\u001b]/.test({page})")


def test_a_lone_surrogate_is_shown(browser: Chromium, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "lone", variants=("control",), tasks=1, trials=1)
    cell = load_plan(run_dir).cells[0]
    append(run_dir, cell, [episode(cell, 0, traj=transcript("half \ud83d of a smile"))])
    load(browser, build_report(run_dir))
    assert browser.evaluate(f"{TITLE}") == "retail task 0, control, trial 1"
    assert browser.evaluate("document.querySelector('#pane .said').textContent.startsWith('half')")
    quiet(browser)


def test_the_policy_would_stop_what_slips_through(browser: Chromium, tmp_path: Path) -> None:
    load(browser, build_report(make_run(tmp_path / "policy", tasks=1, trials=1)))
    stopped = browser.evaluate(
        "new Promise((done) => { const stopped = [];"
        " document.addEventListener('securitypolicyviolation', (event) => {"
        " stopped.push(event.effectiveDirective); if (stopped.length === 2) done(stopped); });"
        " const script = document.createElement('script');"
        " script.textContent = 'window.ran = true'; document.body.append(script);"
        " const image = new Image(); image.src = 'https://example.com/x.png';"
        " document.body.append(image); })"
    )
    assert sorted(stopped) == ["img-src", "script-src-elem"]
    assert browser.evaluate("window.ran") is None
