"""Where the time of jobs went, and whose it was."""

from __future__ import annotations

import itertools
import random

import pytest

from emobench.scheduler.cost import (
    Conversation,
    JobRun,
    Mark,
    Period,
    Spent,
    compute_cost,
    compute_elapsed_s,
    format_hours,
    list_periods,
    share_by_cell,
    split_time,
    sum_up,
)
from emobench.store.jobs import JobKind

NOW = 1000.0


def server(
    started: float | None = 100, ended: float | None = None, cards: int = 2, name: str = "user"
) -> JobRun:
    return JobRun(JobKind.SERVER, name, "7", 40, started, ended, cards, "sacct")


def marks(*pairs: tuple[float, str]) -> list[Mark]:
    return [Mark(time, event) for time, event in pairs]


LIFE = marks((101, "starting"), (160, "ready"), (200, "busy"), (500, "idle"), (600, "left"))


@pytest.mark.parametrize(
    ("run", "events", "expected"),
    [
        (server(None), [], Spent(960, 0)),
        (server(None, ended=90), [], Spent(50, 0)),
        (server(), [], Spent(60, 900, loading_s=900)),
        (server(ended=700), LIFE, Spent(60, 600, 60, 300, 240)),
        (server(), LIFE[:3], Spent(60, 900, 60, 800, 40)),
        # An engine that died loads again, and serves again.
        (
            server(ended=600),
            [*LIFE[:3], *marks((300, "restarted"), (301, "starting"), (350, "ready"))],
            Spent(60, 500, 110, 100, 290),
        ),
        # A requeued job's runs share one file of events.
        (server(started=450, ended=700), LIFE, Spent(410, 250, 50, 0, 200)),
        # Accounting has whole seconds: the first event may be a little before the start.
        (server(started=101.5, ended=200), LIFE, Spent(61.5, 98.5, 58.5, 0, 40)),
        # Killed: nothing says when it stopped but accounting.
        (server(ended=300), LIFE, Spent(60, 200, 60, 100, 40)),
        (JobRun(JobKind.ARRAY, "a", "8_1", 40, 100, 150, 0, "sacct", 1), [], Spent(60, 50)),
        (JobRun(JobKind.ARRAY, "a", "8_1", None, 100, None, 0, "records", 1), [], Spent(0, 900)),
    ],
)
def test_where_the_time_of_a_run_went(run: JobRun, events: list[Mark], expected: Spent) -> None:
    assert split_time(run, events, NOW) == expected


def test_a_server_answers_from_ready_on() -> None:
    found = list_periods(server(ended=700), LIFE, NOW)
    assert [(p.start, p.end) for p in found] == [(160, 200), (200, 500), (500, 600), (600, 700)]


def test_time_is_split_between_the_conversations_that_need_the_server() -> None:
    answering = [Period("user", 0, 100, 2), Period("assistant_a", 50, 100, 4)]
    talks = [
        Conversation(0, 0, 60, ("user", "assistant_a")),
        Conversation(1, 40, 80, ("user",)),
        Conversation(2, 200, 300, ("user",)),
    ]
    shares = share_by_cell(answering, talks)
    # user: 40 s alone, 20 s of two; assistant_a: 10 s alone, with 4 cards.
    assert list(shares[0]) == pytest.approx([2 * 50 + 4 * 10, 50 + 10])
    assert list(shares[1]) == pytest.approx([2 * 30, 30])
    assert shares[2] == (0, 0)


def test_the_split_agrees_with_counting_second_by_second() -> None:
    chance = random.Random(4)
    answering = [Period("user", 5, 40, 2), Period("user", 50, 90, 1)]
    talks = []
    for cell, _ in itertools.product(range(4), range(5)):
        start = chance.randrange(0, 90)
        talks.append(Conversation(cell, start, start + chance.randrange(0, 30), ("user",)))
    expected = dict.fromkeys(range(4), 0.0)
    for second in range(130):
        cards = sum(p.accelerators for p in answering if p.start <= second < p.end)
        active = [talk for talk in talks if talk.start <= second < talk.end]
        for talk in active:
            expected[talk.cell] += cards / len(active)
    shares = share_by_cell(answering, talks)
    assert {cell: cards for cell, (cards, _) in shares.items()} == pytest.approx(expected)


def test_totals_weigh_servers_by_their_cards() -> None:
    runs = [
        server(started=0, ended=3600),
        JobRun(JobKind.SERVER, "assistant_a", "9", 0, 0, 1800, 4, "records"),
        JobRun(JobKind.ARRAY, "a", "8_0", 0, 600, 4200, 0, "sacct", 0),
    ]
    events = {"7": marks((0, "starting"), (1800, "ready"), (2700, "busy"))}
    totals = sum_up(compute_cost(runs, events, NOW))
    assert totals.accelerator_hours == 4
    assert totals.accelerator_hours_loading == 1 + 2
    assert totals.accelerator_hours_serving == 0.5
    assert totals.server_hours == 1.5
    assert totals.cell_hours == 1
    assert totals.source == "sacct and records"
    assert str(totals) == "4.00 accelerator-hours: 3.00 loading, 0.50 serving, 0.50 idle"


def test_a_server_without_a_request_waits_while_no_partner_answers() -> None:
    user, late = server(0, 1000, cards=2), server(400, 1000, cards=1, name="assistant_a")
    late = JobRun(**{**vars(late), "job_id": "8"})
    events = {
        "7": marks((0, "starting"), (100, "ready"), (600, "busy"), (900, "idle")),
        "8": marks((400, "starting"), (500, "ready"), (600, "busy"), (900, "idle")),
    }
    needs = {"user": ["assistant_a"], "assistant_a": ["user"]}
    cost = compute_cost([user, late], events, NOW, partners=needs)
    first, second = (row.spent for row in cost.jobs)
    assert (first.waiting_s, first.idle_s, first.serving_s) == (400, 200, 300)
    assert (second.waiting_s, second.idle_s) == (0, 200)
    totals = sum_up(cost)
    assert totals.accelerator_hours_waiting == pytest.approx(800 / 3600, abs=1e-5)
    assert "0.22 waiting for a partner" in str(totals)
    assert sum_up(compute_cost([user, late], events, NOW)).accelerator_hours_waiting == 0


def test_the_mean_batch_is_over_the_time_with_a_request() -> None:
    served = [Mark(300, "served", 100, 900), Mark(700, "served", 300, 3900)]
    again = [Mark(1300, "served", 100, 100)]  # a requeued job's next run, in the same file
    runs = [server(0, 800), server(1000, 1400)]
    totals = sum_up(compute_cost(runs, {"7": [*served, *again]}, 2000.0))
    assert totals.mean_batch == 10.0
    assert sum_up(compute_cost(runs, {}, 2000.0)).mean_batch is None


def test_time_with_a_job_counts_once() -> None:
    runs = [server(0, 100), server(50, 150), server(900, None), server(None)]
    assert compute_elapsed_s(compute_cost(runs, {}, NOW), NOW) == 150 + 100


def test_without_cards_the_servers_hours_are_shown() -> None:
    totals = sum_up(compute_cost([server(0, 3600, cards=0)], {}, NOW))
    assert totals.accelerator_hours == 0
    assert str(totals) == "1.00 server-hours: 1.00 loading, 0.000 serving, 0.000 idle"


@pytest.mark.parametrize(
    ("hours", "text"),
    [(0, "0.000"), (0.0042, "0.004"), (0.5, "0.50"), (12.34, "12.3"), (1e3, "1000")],
)
def test_hours_have_the_digits_that_matter(hours: float, text: str) -> None:
    assert format_hours(hours) == text
