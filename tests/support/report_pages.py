"""Opening a report in Chromium, and what a reader does and sees there."""

from __future__ import annotations

from pathlib import Path

from tests.support.chromium import Chromium, file_url

TITLE = "document.querySelector('#pane h3').textContent"
COUNT = "document.querySelector('#count').textContent"
PANE = "document.querySelector('#pane').textContent"
TWO = "document.querySelector('#pane .two') !== null"
HASH = "location.hash.slice(1)"


def load(browser: Chromium, report: Path, fragment: str = "") -> None:
    """The report anew, with something shown in the reading pane."""
    browser.requests.clear()
    browser.problems.clear()
    browser.open(file_url(report, fragment))
    browser.wait_for("document.querySelector('#pane').childElementCount > 0")


def choose(page: Chromium, name: str, value: str) -> None:
    """Set a filter."""
    page.evaluate(
        f"(() => {{ const field = document.querySelector('#filters').elements['{name}'];"
        f" field.value = {value!r};"
        " field.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def row(at: int) -> str:
    """The row at this place among the matches, if it is in sight."""
    return f"document.querySelector('#list [data-at=\"{at}\"]')"


def click_row(page: Chromium, at: int, title: str) -> None:
    """Open what the row stands for; wait until the pane has this title."""
    page.evaluate(f"{row(at)}.click()")
    page.wait_for(f"{TITLE} === '{title}'")


def quiet(page: Chromium) -> None:
    """Nothing was asked of any network, and nothing complained."""
    assert page.problems == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "about:"))] == []
    assert len([url for url in page.requests if url.startswith("file:")]) == 1
