"""Which conversations have their text in the page, and what the page says about the others."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emobench.cli.main import main
from emobench.core.errors import InvalidInput
from emobench.core.outcomes import Outcome
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.report.library import (
    Choice,
    Chooser,
    Limit,
    Unit,
    describe_choice,
    list_units,
    parse_limit,
)
from emobench.report.render import build_report
from emobench.tables.run_results import EpisodeSummary, collect
from tests.support.chromium import Chromium
from tests.support.report_pages import COUNT, PANE, TITLE, click_row, load, quiet, row
from tests.support.report_pages import choose as set_filter
from tests.support.runs import append, episode, fill, make_run


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """Two variants, four tasks, two trials; anger fails task 2 of the second trial, which control
    solves, and on task 3 control has no result."""
    made = make_run(tmp_path / "study", variants=("control", "anger"), tasks=4, trials=2)
    for cell in load_plan(made).cells:
        ended = ["solved"] * 3 + ["infra_error" if cell.variant == "control" else "failed"]
        if cell.variant == "anger" and cell.trial == 2:
            ended[2] = "max_steps"
        append(made, cell, [episode(cell, task, ended[task]) for task in cell.tasks])
    return made


def chosen(run_dir: RunDir, limit: Limit) -> Choice:
    collected = collect(run_dir)
    groups = list(dict.fromkeys(cell.group for cell in collected.plan.cells))
    chooser = Chooser(limit)
    chooser.add(list_units(enumerate(collected.cells), groups))
    return chooser.make_choice()


def places(choice: Choice) -> list[tuple[int, int, int]]:
    return [(unit.task, unit.trial, len(unit.members)) for unit in choice.units]


@settings(deadline=None)
@given(
    units=st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 3), st.booleans(), st.integers(1, 9)),
        unique_by=lambda unit: unit[:2],
    ),
    limit=st.tuples(st.none() | st.integers(0, 9), st.none() | st.integers(0, 40)),
    shuffle=st.randoms(use_true_random=False),
    blocks=st.integers(1, 5),
)
def test_units_are_chosen_alike_in_whatever_order_they_come(
    units: list[tuple[int, int, bool, int]],
    limit: tuple[int | None, int | None],
    shuffle: Random,
    blocks: int,
) -> None:
    def unit(task: int, trial: int, differs: bool, length: int) -> Unit:
        record = EpisodeSummary(
            "", task, Outcome.SOLVED, 1.0, 1, 1, 0.0, "", "", "", "", "", (), 0, length
        )
        return Unit(0, task, trial, [(0, record)], differs)

    ranked = sorted(units, key=lambda each: (not each[2], each[1], each[0]))
    fits = 0
    most, most_bytes = (10**9 if each is None else each for each in limit)
    while (
        fits < len(ranked) and fits < most and sum(u[3] for u in ranked[: fits + 1]) <= most_bytes
    ):
        fits += 1
    shuffle.shuffle(units)
    chooser = Chooser(Limit(*limit))
    for start in range(blocks):
        chooser.add([unit(*each) for each in units[start::blocks]])
    choice = chooser.make_choice()
    assert {each.at for each in choice.units} == {(0, *each[:2]) for each in ranked[:fits]}
    assert [each.at for each in choice.units] == sorted(each.at for each in choice.units)
    assert (choice.of_conversations, choice.of_differing) == (
        len(units),
        sum(each[2] for each in units),
    )


def test_what_differs_from_control_comes_first_then_the_first_trials(run_dir: RunDir) -> None:
    assert places(chosen(run_dir, Limit(2, None))) == [(2, 2, 2)]
    # In reading order, whatever the order of choice.
    assert places(chosen(run_dir, Limit(5, None))) == [(0, 1, 2), (2, 2, 2)]
    assert places(chosen(run_dir, Limit(10, None))) == [
        (0, 1, 2),
        (1, 1, 2),
        (2, 1, 2),
        (2, 2, 2),
        (3, 1, 2),
    ]
    choice = chosen(run_dir, Limit(10, None))
    assert (choice.conversations, choice.of_conversations) == (10, 16)
    assert (choice.differing, choice.of_differing) == (1, 1)


def test_a_pair_is_never_torn_apart(run_dir: RunDir) -> None:
    for most in range(17):
        choice = chosen(run_dir, Limit(most, None))
        assert choice.conversations == most - most % 2
        assert all(len(unit.members) == 2 for unit in choice.units)


def test_the_size_of_the_text_is_a_limit_too(run_dir: RunDir) -> None:
    whole = chosen(run_dir, Limit(None, None))
    size = sum(unit.size for unit in whole.units)
    assert whole.whole
    assert chosen(run_dir, Limit(None, size)).whole
    assert chosen(run_dir, Limit(None, size - 1)).conversations == 14
    assert chosen(run_dir, Limit(None, 0)).conversations == 0


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("all", Limit(None, None)),
        ("none", Limit(0, None)),
        ("12", Limit(12, None)),
        (None, Limit()),
    ],
)
def test_the_option(text: str | None, limit: Limit) -> None:
    assert parse_limit(text) == limit


@pytest.mark.parametrize("text", ["", "-1", "1.5", "many", "\u0661"])
def test_another_value_of_the_option_is_refused(
    run_dir: RunDir, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InvalidInput, match="not a number of conversations"):
        parse_limit(text)
    assert main(["report", str(run_dir.path), f"--conversations={text}"]) == 2
    assert "a whole number, all, none" in capsys.readouterr().err
    assert not run_dir.report.exists()


def test_the_notice_says_what_is_there(run_dir: RunDir) -> None:
    assert describe_choice(chosen(run_dir, Limit())) == ""
    said = describe_choice(chosen(run_dir, Limit(5, None)))
    assert "the text of 4 of 16 conversations" in said
    assert "1 of 1 sets" in said
    assert "The text of the 16 conversations was left out" in describe_choice(
        chosen(run_dir, Limit(0, None))
    )


def test_a_page_without_text_holds_none(run_dir: RunDir) -> None:
    assert main(["report", str(run_dir.path), "--conversations", "none"]) == 0
    page = run_dir.report.read_text(encoding="utf-8")
    assert 'class="chunk"' not in page
    assert "Yusuf" not in page and "exchange two items" not in page
    assert "was left out of this page" in page


def test_what_is_not_in_the_page_is_listed_and_counted(browser: Chromium, run_dir: RunDir) -> None:
    load(browser, build_report(run_dir, Limit(2, None)))
    assert browser.evaluate(COUNT) == "16 of 16 conversations"
    assert "Its text is not in this page" in browser.evaluate(PANE)
    command = browser.evaluate("document.querySelector('#pane pre').textContent")
    arguments = command.removeprefix("emobench ").replace("RUN_DIR", str(run_dir.path)).split()
    assert main([*arguments, "--json"]) == 0
    set_filter(browser, "pair", "lost")
    browser.wait_for(f"{COUNT} === '1 of 16 conversations'")
    click_row(browser, 0, "retail task 2, anger, trial 2")
    assert "two items" in browser.evaluate(PANE)
    set_filter(browser, "pair", "")
    set_filter(browser, "text", "here")
    browser.wait_for(f"{COUNT} === '2 of 16 conversations'")
    set_filter(browser, "q", "two items")
    set_filter(browser, "text", "")
    browser.wait_for(f"{COUNT}.startsWith('2 of 16 conversations; only those with their text')")
    quiet(browser)


def test_thousands_of_conversations_can_be_walked_filtered_and_searched(
    browser: Chromium, tmp_path: Path
) -> None:
    run_dir = make_run(tmp_path / "large", tasks=100, trials=10)
    fill(run_dir, load_plan(run_dir).cells, messages=8)
    load(browser, build_report(run_dir))
    assert browser.evaluate(COUNT) == "4,000 of 4,000 conversations"
    browser.evaluate("document.querySelector('#list').focus()")
    browser.press("End")
    browser.wait_for(f"{TITLE} === 'retail task 99, anxiety, trial 10'")
    assert browser.evaluate("document.querySelectorAll('#list li').length") < 60
    assert browser.evaluate(f"{row(3999)}.getAttribute('aria-selected')") == "true"
    set_filter(browser, "q", "works with google home (order 50)")
    browser.wait_for(f"{COUNT} === '40 of 4,000 conversations'")
    # A list that is not wanted any more does not come back.
    set_filter(browser, "q", "mechanical")
    set_filter(browser, "q", "")
    browser.wait_for(f"{COUNT} === '4,000 of 4,000 conversations'")
    assert browser.evaluate("performance.memory.usedJSHeapSize") < 100e6
    quiet(browser)


def test_the_index_is_small_where_the_text_is_left_out(run_dir: RunDir) -> None:
    page = build_report(run_dir, Limit(0, None)).read_text(encoding="utf-8")
    index = page.split('id="index">')[1].split("</script>")[0]
    assert json.loads(index)["tasks"] == [[0, 1, 2, 3]] * 4
    assert json.loads(index)["texts"] == []
