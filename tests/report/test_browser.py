"""The report in a real browser: the list, the filters, the keys, the address, the printer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from emobench.core.plan import load_plan
from emobench.report.render import build_report
from tests.support.chromium import Chromium
from tests.support.report_pages import (
    COUNT,
    HASH,
    PANE,
    TITLE,
    TWO,
    choose,
    click_row,
    load,
    quiet,
    row,
)
from tests.support.runs import append, episode, fill, make_run


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


def test_opens_without_errors_and_without_the_network(page: Chromium) -> None:
    assert page.evaluate(COUNT) == "160 of 160 conversations"
    assert page.evaluate(TITLE) == "retail task 0, control, trial 1"
    quiet(page)


def test_only_rows_in_sight_are_in_the_page(page: Chromium) -> None:
    rows = "document.querySelectorAll('#list li').length"
    shelf = "document.querySelector('.shelf')"
    assert 5 < page.evaluate(rows) < 60
    assert page.evaluate(row(150)) is None
    assert page.evaluate(f"{row(0)}.getAttribute('aria-setsize')") == "160"
    page.evaluate(f"{shelf}.scrollTop = {shelf}.scrollHeight")
    page.wait_for(f"{row(159)} !== null")
    assert page.evaluate(rows) < 60
    last, bottom = f"{row(159)}.getBoundingClientRect()", f"{shelf}.getBoundingClientRect()"
    assert page.evaluate(f"{last}.bottom <= {bottom}.bottom + 1")
    # What is selected is still there for assistive technology.
    active = "document.querySelector('#list').getAttribute('aria-activedescendant')"
    assert page.evaluate(f"document.getElementById({active}).dataset.at") == "0"


def test_filters_narrow_the_list(page: Chromium) -> None:
    choose(page, "variant", "frustration")
    page.wait_for(f"{COUNT} === '40 of 160 conversations'")
    choose(page, "task", "3")
    page.wait_for(f"{COUNT} === '2 of 160 conversations'")
    choose(page, "trial", "2")
    page.wait_for(f"{COUNT} === '1 of 160 conversations'")
    assert page.evaluate(HASH) == "variant=frustration&trial=2&task=3"
    page.evaluate("document.querySelector('#filters button').click()")
    page.wait_for(f"{COUNT} === '160 of 160 conversations'")
    assert page.evaluate("location.hash") == ""
    for tasks, found in (("3, 7-9", 32), ("8-", 0), ("x", 0), ("19-30", 8)):
        choose(page, "task", tasks)
        page.wait_for(f"{COUNT} === '{found} of 160 conversations'")
    quiet(page)


def test_text_search_reads_every_conversation(page: Chromium) -> None:
    choose(page, "q", "THERMOSTAT FOR THE ONE THAT WORKS WITH GOOGLE HOME (ORDER 17)")
    page.wait_for(f"{COUNT} === '8 of 160 conversations'")
    choose(page, "q", "mechanical keyboard")
    page.wait_for(f"{COUNT} === '160 of 160 conversations'")
    choose(page, "q", "never said by anyone")
    page.wait_for(f"{COUNT} === '0 of 160 conversations'")
    assert page.evaluate("document.querySelector('#progress').textContent") == ""


def test_what_was_searched_for_is_marked_and_unfolded(page: Chromium) -> None:
    choose(page, "q", "1151293680")
    page.wait_for(f"{COUNT} === '160 of 160 conversations'")
    click_row(page, 1, "retail task 0, placebo, trial 1")
    assert page.evaluate("document.querySelectorAll('#pane .call[open] mark').length") > 0


def test_a_row_opens_its_conversation(page: Chromium) -> None:
    click_row(page, 2, "retail task 0, frustration, trial 1")
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
    page.press("PageUp")
    page.wait_for(f"{TITLE} !== 'retail task 19, anxiety, trial 2'")
    page.press("Home")
    page.wait_for(f"{TITLE} === 'retail task 0, control, trial 1'")
    page.press("v")
    page.wait_for(f"{TITLE} === 'retail task 0, placebo, trial 1'")
    page.press("/")
    page.press("k")
    assert page.evaluate("document.querySelector('#filters').elements.q.value") == "k"


def test_enter_leads_into_the_conversation_and_escape_back(page: Chromium) -> None:
    page.evaluate("document.querySelector('#list').focus()")
    page.press("Enter")
    assert page.evaluate("document.activeElement.id") == "pane"
    page.press("Escape")
    assert page.evaluate("document.activeElement.id") == "list"


def test_letters_can_be_left_to_other_programs(page: Chromium) -> None:
    page.evaluate("document.querySelector('#keys-anywhere').click()")
    page.evaluate("document.querySelector('h1 ~ nav a').focus()")
    page.press("j")
    page.evaluate("document.querySelector('#list').focus()")
    page.press("j")
    page.wait_for(f"{TITLE} === 'retail task 0, placebo, trial 1'")


def test_everything_has_a_name_for_assistive_technology(page: Chromium) -> None:
    """Chromium's own accessibility tree: every control and landmark is named."""
    page.evaluate("document.querySelector('#keys').open = true")
    click_row(page, 2, "retail task 0, frustration, trial 1")
    nodes = page.command("Accessibility.getFullAXTree")["nodes"]
    named = {"button", "checkbox", "combobox", "link", "listbox", "option", "region", "searchbox"}
    named |= {"article", "navigation", "search", "textbox"}
    found: dict[str, list[str]] = {}
    for node in nodes:
        role = node.get("role", {}).get("value", "")
        if role in named and not node.get("ignored"):
            found.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    assert {"article", "combobox", "listbox", "option", "region", "search"} <= set(found)
    assert [role for role, names in found.items() if "" in names] == []
    assert found["article"] == ["retail task 0, frustration, trial 1"]


def test_deep_links(browser: Chromium, report: Path) -> None:
    load(browser, report)
    click_row(browser, 6, "retail task 0, frustration, trial 2")
    wanted, fragment = browser.evaluate(f"({TITLE})"), browser.evaluate(HASH)
    load(browser, report, fragment)
    assert browser.evaluate(TITLE) == wanted
    # Links with the whole hash, or with six characters of it, lead there too.
    for text in (f"{fragment}{'0' * 48}", fragment[: len("episode=") + 6]):
        load(browser, report, text)
        assert browser.evaluate(TITLE) == wanted
    load(browser, report, "variant=anxiety&trial=2")
    browser.wait_for(f"{COUNT} === '20 of 160 conversations'")
    load(browser, report, f"variant=frustration&pair=lost&{fragment}")
    assert browser.evaluate(TITLE) == wanted
    assert browser.evaluate(COUNT) != "160 of 160 conversations"
    load(browser, report, "episode=nonesuch")
    assert "No conversation nonesuch" in browser.evaluate(PANE)


def test_a_link_followed_twice_leads_there_twice(page: Chromium) -> None:
    link = "document.querySelector('#pane .siblings a[href]:not([aria-current])')"
    page.evaluate(f"{link}.click()")
    page.wait_for(f"{TITLE} === 'retail task 0, placebo, trial 1'")
    page.evaluate(f"{link}.click()")
    page.wait_for(f"{TITLE} === 'retail task 0, control, trial 1'")


def test_counts_of_the_tables_lead_to_their_conversations(page: Chromium) -> None:
    link = "document.querySelector('#outcomes tbody a[href*=frustration]')"
    count = page.evaluate(f"{link}.textContent")
    page.evaluate(f"{link}.click()")
    page.wait_for(f"{COUNT} === '{count} of 160 conversations'")
    page.wait_for("document.querySelector('#pane h3').textContent.includes('frustration')")


def test_a_run_without_conversations(browser: Chromium, tmp_path: Path) -> None:
    load(browser, build_report(make_run(tmp_path / "fresh")))
    assert browser.evaluate(COUNT) == "No conversation yet."
    for key in "jkvbdu":
        browser.press(key)
    quiet(browser)


def test_react_tool_answers_are_folded(browser: Chromium, tmp_path: Path) -> None:
    run_dir = make_run(
        tmp_path / "react", variants=("control",), strategies=("react",), tasks=1, trials=1
    )
    cell = load_plan(run_dir).cells[0]
    long_number = '{"price": 1.0, "id": 12345678901234567890}'
    action = '{"name": "get", "arguments": {}}'
    traj = [
        {"role": "user", "content": "Hello, I want to know a price."},
        {"role": "assistant", "content": f"Thought:\nI look it up.\nAction:\n{action}"},
        {"role": "user", "content": f"API output: {long_number}"},
    ]
    append(run_dir, cell, [episode(cell, 0, traj=traj)])
    load(browser, build_report(run_dir))
    assert browser.evaluate("document.querySelectorAll('#pane .message.user').length") == 1
    assert browser.evaluate("document.querySelectorAll('#pane .call').length") == 1
    # Numbers that JavaScript cannot hold are shown as they were written.
    result = "document.querySelector('#pane .call .part:last-child pre').textContent"
    assert browser.evaluate(result) == long_number
    assert "I look it up." in browser.evaluate(PANE)


def test_a_conversation_is_printed_only_if_it_was_chosen(page: Chromium) -> None:
    height = "document.querySelector('#conversations').getBoundingClientRect().height"
    page.command("Emulation.setEmulatedMedia", media="print")
    try:
        assert page.evaluate(height) == 0
        click_row(page, 2, "retail task 0, frustration, trial 1")
        assert page.evaluate(TWO)
        assert page.evaluate(height) > 0
        assert page.evaluate("document.querySelector('.shelf').clientHeight") == 0
        sides = "[...document.querySelectorAll('.heads .side')].map((side) => side.clientWidth > 0)"
        assert page.evaluate(sides) == [True, True]
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
