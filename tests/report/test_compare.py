"""Two conversations beside each other in a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emobench.core.plan import load_plan
from emobench.report.render import build_report
from tests.support.chromium import Chromium
from tests.support.report_pages import COUNT, HASH, PANE, TITLE, TWO, choose, click_row, load, quiet
from tests.support.runs import append, episode, make_run

HEADS = "[...document.querySelectorAll('#pane .heads b')].map((each) => each.textContent)"
MARKS = "[...document.querySelectorAll('#pane .difference')].map((each) => each.textContent)"
CHOSEN = "document.querySelector('#beside').selectedOptions[0].textContent"
OUTCOMES = {
    ("control", 1): ("solved", "failed", "solved"),
    ("anger", 1): ("failed", "solved", "infra_error"),
    ("joy", 1): ("solved", "failed", "solved"),
    ("control", 2): ("solved", "solved", "infra_error"),
    ("anger", 2): ("max_steps", "solved", "failed"),
    ("joy", 2): ("solved", "solved", "solved"),
}


def call(name: str, arguments: dict[str, Any], result: str) -> list[dict[str, Any]]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": function}]},
        {"role": "tool", "tool_call_id": "1", "name": name, "content": result},
    ]


def transcript(angry: bool) -> list[dict[str, Any]]:
    """The first call is the same in both, its arguments in another order; the second fails."""
    keys = ["order_id", "kind"]
    arguments = {key: f"{key} 1" for key in (reversed(keys) if angry else keys)}
    second = call("get_order_details", {"order_id": "#W2"}, "Error: order not found")
    write = call("cancel_pending_order", {"order_id": "#W1", "reason": "no longer needed"}, "ok")
    return [
        {"role": "system", "content": "# Policy"},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello, how can I help?"},
        {"role": "user", "content": "Cancel my order NOW!" if angry else "Please cancel my order."},
        *call("find_order", arguments, "#W1"),
        *(second if angry else []),
        *write,
        {"role": "assistant", "content": "It is cancelled."},
        {"role": "user", "content": "###STOP###"},
    ]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = make_run(
        tmp_path_factory.mktemp("runs") / "pairs",
        variants=("control", "anger", "joy"),
        tasks=3,
        trials=2,
    )
    for cell in load_plan(run_dir).cells:
        ended = OUTCOMES[cell.variant, cell.trial]
        append(
            run_dir,
            cell,
            [
                episode(cell, task, ended[task], traj=transcript(cell.variant == "anger"))
                for task in cell.tasks
            ],
        )
    return build_report(run_dir)


@pytest.fixture
def page(browser: Chromium, report: Path) -> Chromium:
    """Anger's conversation on task 0, beside control's."""
    wide(browser)
    load(browser, report)
    click_row(browser, 1, "retail task 0, anger, trial 1")
    return browser


def wide(page: Chromium, width: int = 1500, height: int = 900) -> None:
    page.command(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=height,
        deviceScaleFactor=1,
        mobile=False,
    )


def test_control_stands_on_the_left(page: Chromium) -> None:
    assert page.evaluate(HEADS) == ["control, trial 1", "anger, trial 1"]
    assert page.evaluate(CHOSEN) == "control, solved"
    # One word a cell: what stands in one row stands beside each other.
    assert page.evaluate(
        "(() => { const sides = [...document.querySelectorAll('#pane .message.user .said')]"
        ".slice(2, 4).map((each) => each.getBoundingClientRect());"
        " return sides[0].top === sides[1].top && sides[0].right < sides[1].left; })()"
    )
    quiet(page)


def test_control_itself_stands_alone_until_another_is_chosen(page: Chromium) -> None:
    click_row(page, 0, "retail task 0, control, trial 1")
    assert not page.evaluate(TWO)
    assert page.evaluate(MARKS) == []
    beside(page, "anger, failed")
    assert page.evaluate(HEADS) == ["control, trial 1", "anger, trial 1"]


def beside(page: Chromium, text: str) -> None:
    """Choose what stands beside, by the words of its option."""
    page.evaluate(
        "(() => { const select = document.querySelector('#beside');"
        f" select.value = [...select.options].find((each) => each.text === {text!r}).value;"
        " select.dispatchEvent(new Event('change')); })()"
    )
    page.wait_for(f"{CHOSEN} === {text!r} && document.activeElement.id === 'beside'")


def test_the_first_differences_are_marked_and_reached_by_a_key(page: Chromium) -> None:
    assert page.evaluate(MARKS) == ["First difference", "First different tool call"]
    after = (
        "[...document.querySelectorAll('#pane .difference')]"
        ".map((mark) => mark.nextElementSibling.textContent)"
    )
    first, second = page.evaluate(after)
    assert "Please cancel my order." in first and "Cancel my order NOW!" in first
    # The arguments of the first call are the same, whatever their order.
    assert "cancel_pending_order" in second and "Error: order not found" in second
    for mark in (0, 1, 0):
        page.press("d")
        at = f"document.querySelectorAll('#pane .difference')[{mark}]"
        assert page.evaluate(f"document.activeElement === {at}")
        assert page.evaluate(
            f"(() => {{ const box = {at}.getBoundingClientRect();"
            " return box.top >= 0 && box.bottom <= innerHeight; })()"
        )
    said = page.evaluate("document.querySelector('#pane .differences').textContent")
    assert "control, trial 1: step 3, cancel_pending_order" in said
    assert "anger, trial 1: step 3, get_order_details" in said


def test_what_one_side_did_more_pushes_nothing_out_of_line(page: Chromium) -> None:
    """Anger's has a call more; the reply and the answer to it stand beside each other still."""
    lines = page.evaluate(
        "[...document.querySelectorAll('#pane .pair')].map((pair) =>"
        " [...pair.children].map((side) => side.querySelector('.said, code')?.textContent ?? ''))"
    )
    assert ["It is cancelled.", "It is cancelled."] in lines
    assert ["###STOP###", "###STOP###"] in lines
    assert ["", 'cancel_pending_order("#W1", "no longer needed")'] in lines


def test_equal_conversations_have_no_difference(page: Chromium) -> None:
    click_row(page, 2, "retail task 0, joy, trial 1")
    assert page.evaluate(MARKS) == []
    assert "No difference: both say and do the same." in page.evaluate(PANE)


def test_tool_calls_are_folded_to_a_line(page: Chromium) -> None:
    calls = "[...document.querySelectorAll('#pane .call')]"
    assert page.evaluate(f"{calls}.length") == 5
    assert page.evaluate(f"{calls}.every((each) => !each.open && each.clientHeight < 30)")
    assert page.evaluate(f"{calls}.filter((each) => each.matches('.error')).length") == 1
    assert page.evaluate(f"{calls}.filter((each) => each.matches('.writes')).length") == 2
    line = page.evaluate("document.querySelector('#pane .call.error summary').textContent")
    assert line == 'call get_order_details("#W2") \u2717\u00a0error \u2192 Error: order not found'
    page.evaluate("document.querySelector('#pane .call summary').focus()")
    page.press("Enter")
    assert page.evaluate(f"{calls}.filter((each) => each.open).length") == 1
    page.press("u")
    assert page.evaluate(f"{calls}.every((each) => each.open)")
    # So it stays for the conversations that follow.
    click_row(page, 2, "retail task 0, joy, trial 1")
    assert page.evaluate(f"{calls}.every((each) => each.open)")
    page.press("u")
    assert page.evaluate(f"{calls}.every((each) => !each.open)")


def test_another_variant_or_another_trial_can_stand_beside(
    browser: Chromium, page: Chromium
) -> None:
    beside(page, "trial 2, max steps")
    assert page.evaluate(HEADS) == ["anger, trial 1", "anger, trial 2"]
    link = page.evaluate(HASH)
    assert "beside=" in link
    beside(page, "joy, solved")
    assert page.evaluate(HEADS) == ["anger, trial 1", "joy, trial 1"]
    # A variant stays chosen while walking on.
    page.press("Escape")
    page.press("j")
    page.press("j")
    page.wait_for(f"{TITLE} === 'retail task 0, control, trial 2'")
    assert page.evaluate(HEADS) == ["control, trial 2", "joy, trial 2"]
    page.press("b")
    page.wait_for(f"!({TWO})")
    assert page.evaluate(HASH).endswith("&beside=none")
    page.evaluate(f"location.hash = {link!r}")
    page.wait_for(f"{HEADS}.join() === 'anger, trial 1,anger, trial 2'")
    quiet(browser)


@pytest.mark.parametrize(("pair", "found"), [("lost", 2), ("won", 1), ("differs", 3)])
def test_pairs_whose_outcome_differs(page: Chromium, pair: str, found: int) -> None:
    """Infrastructure errors are missing data: with them there is no pair."""
    choose(page, "pair", pair)
    page.wait_for(f"{COUNT} === '{found} of 18 conversations'")
    variants = "[...document.querySelectorAll('#list .where')].map((each) => each.textContent)"
    assert all("anger" in where for where in page.evaluate(variants))


def test_on_a_narrow_screen_one_side_is_shown_at_a_time(page: Chromium) -> None:
    wide(page, 400)
    shown = "[...document.querySelectorAll('.heads .side')].map((side) => side.clientWidth > 0)"
    assert page.evaluate(shown) == [False, True]
    page.evaluate("document.querySelector('#pane .tabs button').click()")
    assert page.evaluate(shown) == [True, False]
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


@pytest.mark.parametrize("width", [320, 760, 1180, 1280, 1900])
def test_the_page_is_no_wider_than_the_window(page: Chromium, width: int) -> None:
    wide(page, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(page: Chromium, scheme: str) -> None:
    """WCAG 2.1, 1.4.3: a contrast of 4.5."""
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    page.command("Emulation.setEmulatedMedia", features=media)
    page.press("u")
    try:
        assert page.evaluate(CONTRAST) == []
    finally:
        page.press("u")
        page.command("Emulation.setEmulatedMedia", features=[])


CONTRAST = """(() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const rgb = channels(getComputedStyle(at).backgroundColor);
      if (rgb.length < 4 || rgb[3] > 0) return rgb;
    }
    return [255, 255, 255];
  };
  const weak = new Set();
  for (const node of document.querySelectorAll('#conversations *')) {
    const own = [...node.childNodes].some((each) => each.nodeType === 3 && each.data.trim());
    if (!own || !node.getClientRects().length) continue;
    const pair = [light(channels(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < 4.5) weak.add(`${node.tagName}.${node.className} ${ratio.toFixed(2)}`);
  }
  return [...weak];
})()"""
