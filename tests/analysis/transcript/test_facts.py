"""Facts are taken from the real tasks' instructions: what is there, and nothing else."""

from __future__ import annotations

import pytest

from emobench.analysis.transcript.facts import (
    Kind,
    Value,
    extract_facts,
    find_values,
    is_conveyed,
    is_known,
)
from emobench.benchmarks.task_sets import TASK_COUNTS
from tests.support.conversations import task_of

ALL = [(env, index) for env, count in TASK_COUNTS.items() for index in range(count)]


def test_every_task_tells_who_the_user_is() -> None:
    for env, index in ALL:
        task = task_of(env, index)
        facts = extract_facts(task)
        assert {kind for kind, _ in facts.told} & {"user_id", "email", "zip", "name"}, (env, index)
        assert facts.told <= facts.known | {f for f in facts.told if f[0] == "item"}
        assert facts.own["user_id"] == task.user_id


def test_every_fact_stands_in_its_instruction() -> None:
    for env, index in ALL:
        task = task_of(env, index)
        for fact in extract_facts(task).told:
            assert is_conveyed(fact, task.instruction), (env, index, fact)


@pytest.mark.parametrize(
    ("env", "index", "told"),
    [
        (
            "retail",
            1,
            {
                ("name", "yusuf rossi"),
                ("zip", "19122"),
                ("order_id", "2378156"),
                ("item", "keyboard"),
                ("item", "thermostat"),
            },
        ),
        (
            "retail",
            75,
            {
                ("name", "liam moore"),
                ("email", "liam.moore6985@example.com"),
                ("order_id", "6908222"),
                ("item", "earbud"),
            },
        ),
        (
            "retail",
            47,
            {
                ("user_id", "daiki_johnson_9523"),
                ("zip", "80273"),
                ("order_id", "9502126"),
                ("order_id", "9502127"),
                ("item", "purifier"),
                ("item", "cleaner"),
            },
        ),
        (
            "airline",
            15,
            {
                ("user_id", "james_patel_9828"),
                ("airport", "las vegas"),
                ("airport", "denver"),
                ("date", "05-19"),
                ("date", "05-20"),
                ("reservation_id", "GV1N64"),
            },
        ),
        (
            "airline",
            14,
            {
                ("user_id", "chen_lee_6825"),
                ("airport", "boston"),
                ("airport", "minneapolis"),
                ("reservation_id", "YAX4DR"),
                ("amount", "600"),
            },
        ),
        (
            "airline",
            23,
            {
                ("user_id", "yara_garcia_1905"),
                ("reservation_id", "HXDUBJ"),
                ("airport", "san francisco"),
                ("amount", "200"),
            },
        ),
    ],
)
def test_facts_of_a_task(env: str, index: int, told: set[Value]) -> None:
    assert extract_facts(task_of(env, index)).told == told


@pytest.mark.parametrize(
    ("kind", "text", "values"),
    [
        ("zip", "I live in 19122, the order was $12345 and item 1234567890", {"19122"}),
        ("zip", "Send it to 12345 Oak Street, 62701.", {"62701"}),
        ("zip", "10,000 reasons, order #W0212345", set()),
        ("order_id", "the order 2378159.", {"2378159"}),
        ("order_id", "order #W2378156 and w2378158", {"2378156", "2378158"}),
        ("reservation_id", "I am so ANGRY, reservation PUNERT and GV1N64", {"GV1N64", "PUNERT"}),
        ("reservation_id", "CANCEL it NOW, flight HAT045", set()),
        (
            "date",
            "May 20th, the 21st of May, 2024-05-22 or 5/23",
            {f"05-{d}" for d in range(20, 24)},
        ),
        ("date", "I may 2 times ask; 24/7 help; 10/10", {"10-10"}),
        ("airport", "from JFK or the Big Apple to Boston", {"new york", "boston"}),
        ("airport", "we are at sea, in the den", set()),
        ("amount", "$1,234.50 or 200 dollars, 3 bags", {"1234.50", "200"}),
        ("email", "It's mei.kovacs@example.com.", {"mei.kovacs@example.com"}),
        ("user_id", "mei_kovacs_8020 or Mei_Kovacs_8020", {"mei_kovacs_8020"}),
        ("card", "my card ending in 7447, or my 1234 card", {"7447", "1234"}),
    ],
)
def test_values(kind: Kind, text: str, values: set[str]) -> None:
    assert find_values(kind, text) == values


def test_a_fact_is_found_however_it_is_said() -> None:
    assert is_conveyed(("order_id", "2378156"), "It's order W2378156, I think")
    assert is_conveyed(("item", "shirt"), "Two Tshirts, please")
    assert is_conveyed(("item", "boot"), "my hiking BOOTS")
    assert is_conveyed(("name", "mei kovacs"), "Kovacs is the last name, Mei the first")
    assert not is_conveyed(("name", "mei kovacs"), "mei.kovacs@example.com, mei_kovacs_8020")
    assert is_conveyed(("amount", "1000"), "at most 1,000.00 in all")
    assert not is_conveyed(("amount", "100"), "at most 1000")
    assert not is_conveyed(("zip", "19122"), "119122")
    assert is_conveyed(("date", "05-20"), "on the 20th of May")


def test_a_near_date_is_arithmetic() -> None:
    known = {("date", "05-20")}
    assert is_known(("date", "05-21"), known)  # type: ignore[arg-type]
    assert not is_known(("date", "07-15"), known)  # type: ignore[arg-type]
