"""An overlay of shared records is, to all that can be done with a dict, a private deep copy.

Random sequences of operations run on an overlay and on a deep copy of the same plain data: results,
errors, what earlier results have become, and the final hash are equal, or the overlay gives up
with SharedStateChanged; and the shared records never change.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emobench.benchmarks.adapter import Benchmark
from emobench.benchmarks.overlay import (
    FrozenDict,
    Overlay,
    SharedStateChanged,
    Table,
    keeps_shared,
    pack,
    settle,
)
from emobench.benchmarks.state import SharedState

RECORDS: dict[str, Any] = {
    "a": {"n": 1, "list": [1, {"deep": 1.0}], "text": "x"},
    "b": {"n": True, "list": [], "text": None},
    "c": {"n": {"deep": {"er": [0]}}},
    "d": [1, [2], {"three": 3}],
    "e": 5,
}
Held = list[Any]
Operation = Callable[[Any, str, Held], Any]


def hold(held: Held, value: Any) -> Any:
    held.append(value)
    return value


def poke(value: Any) -> Any:
    """Change an object at every depth that has one."""
    if isinstance(value, dict):
        for item in list(value.values()):
            poke(item)
        value["poked"] = len(value)
    elif isinstance(value, list):
        for item in list(value):
            poke(item)
        value.append("poked")
    return value


def poke_held(table: Any, key: str, held: Held) -> Any:
    return [poke(item) for item in held[-2:]]


def iterate_and_ask(table: Any, key: str, held: Held) -> Any:
    return [table[name] for name in table]


def partial_update(table: Any, key: str, held: Held) -> None:
    table.update([(key, 1), 5])


def merge_in_place(table: Any, key: str, held: Held) -> Any:
    same = table
    table |= {key: {"new": [1]}, "z": 1}
    return same is table


def attribute(table: Any, key: str, held: Held) -> None:
    table.append = key


# What a tool may do by asking for records by key, or by only reading: never given up.
EXACT: dict[str, Operation] = {
    "getitem": lambda t, k, h: hold(h, t[k]),
    "get": lambda t, k, h: hold(h, t.get(k)),
    "get_default": lambda t, k, h: hold(h, t.get(k, [k])),
    "setdefault": lambda t, k, h: hold(h, t.setdefault(k, {"fresh": []})),
    "setdefault_none": lambda t, k, h: t.setdefault(k),
    "pop": lambda t, k, h: hold(h, t.pop(k)),
    "pop_default": lambda t, k, h: t.pop(k, None),
    "popitem": lambda t, k, h: hold(h, t.popitem()[1]),
    "set": lambda t, k, h: t.__setitem__(k, {"new": [k]}),
    "set_number": lambda t, k, h: t.__setitem__(k, 1.0),
    "set_other": lambda t, k, h: t.__setitem__(k, t["a"]),
    "delete": lambda t, k, h: t.__delitem__(k),
    "clear": lambda t, k, h: t.clear(),
    "update": lambda t, k, h: t.update({k: [1, 2]}, z={"new": 1}),
    "update_pairs": lambda t, k, h: t.update([(k, {"p": 1})]),
    "update_self": lambda t, k, h: t.update(t),
    "partial_update": partial_update,
    "merge_in_place": merge_in_place,
    "or": lambda t, k, h: hold(h, t | {"y": 1}),
    "ror": lambda t, k, h: hold(h, {"y": 1, k: 2} | t),
    "or_list": lambda t, k, h: t | [1],
    "copy": lambda t, k, h: hold(h, t.copy()),
    "copy_module": lambda t, k, h: hold(h, copy.copy(t)),
    "deepcopy": lambda t, k, h: poke(copy.deepcopy(t)),
    "pickle": lambda t, k, h: poke(pickle.loads(pickle.dumps(t))),
    "dict": lambda t, k, h: hold(h, dict(t)),
    "unpack": lambda t, k, h: hold(h, {**t}),
    "keywords": lambda t, k, h: hold(h, dict(**t)),
    "poke_held": poke_held,
    "poke_key": lambda t, k, h: poke(t[k]),
    "nested": lambda t, k, h: t[k]["list"][1].update(deep=2),
    "augmented": lambda t, k, h: t[k].__setitem__("n", t[k]["n"] + 1),
    "contains": lambda t, k, h: (k in t, len(t), bool(t), [1] in list(t)),
    "keys": lambda t, k, h: (list(t), list(t.keys()), sorted(t), list(reversed(t))),
    "walk": lambda t, k, h: [json.dumps(v) for v in t.values()],
    "walk_items": lambda t, k, h: [(n, repr(v), v == RECORDS.get(n)) for n, v in t.items()],
    "walk_copies": lambda t, k, h: poke([copy.deepcopy(v) for v in t.values()]),
    "walk_pickles": lambda t, k, h: poke(pickle.loads(pickle.dumps(list(t.values())))),
    "walk_shallow": lambda t, k, h: [{**v, "x": 1} for v in t.values() if isinstance(v, dict)],
    "walk_into_itself": lambda t, k, h: t.update(dict(t.items())),
    "equal": lambda t, k, h: (t == RECORDS, t != RECORDS, t == {k: 1}, t == t.copy()),
    "repr": lambda t, k, h: repr(t),
    "json": lambda t, k, h: json.dumps(t, sort_keys=True),
    "json_indent": lambda t, k, h: json.dumps(t, indent=1),
    "isinstance": lambda t, k, h: isinstance(t, dict),
    "iterate_and_ask": iterate_and_ask,
    "fromkeys": lambda t, k, h: t.fromkeys([k], 1),
    # Errors, whose text tau-bench shows to the agent.
    "unhashable": lambda t, k, h: t[[k]],
    "unhashable_get": lambda t, k, h: t.get([k]),
    "get_nothing": lambda t, k, h: t.get(),
    "get_keyword": lambda t, k, h: t.get(key=k),
    "pop_many": lambda t, k, h: t.pop(k, 1, 2),
    "setdefault_many": lambda t, k, h: t.setdefault(k, 1, 2),
    "attribute": attribute,
    "no_method": lambda t, k, h: t.append(k),
    "add": lambda t, k, h: t + 1,
    "less": lambda t, k, h: t < {},
    "hash": lambda t, k, h: hash(t),
    "call": lambda t, k, h: t(),
    "walk_error": lambda t, k, h: sorted(t.values()),
    "walk_method": lambda t, k, h: [v.lower() for v in t.values()],
}


def walk_and_change(table: Any, key: str, held: Held) -> None:
    for record in table.values():
        poke(record)


def walk_and_ask(table: Any, key: str, held: Held) -> None:
    for name, record in table.items():
        table[name] = {"was": record}


def walk_and_read_stale(table: Any, key: str, held: Held) -> Any:
    found = list(table.values())
    poke(table[key])
    return found


def walk_and_keep(table: Any, key: str, held: Held) -> None:
    table["kept"] = {"in": [next(iter(table.values()))]}


# What an overlay cannot follow: equal results, or SharedStateChanged.
RUDE: dict[str, Operation] = {
    "walk_and_change": walk_and_change,
    "walk_and_ask": walk_and_ask,
    "walk_and_read_stale": walk_and_read_stale,
    "walk_and_keep": walk_and_keep,
    "walk_and_store": lambda t, k, h: t.__setitem__(k, next(iter(t.values()))),
    "walk_and_merge": lambda t, k, h: t.update(next(iter(t.values()))),
    "walk_and_default": lambda t, k, h: t.setdefault(k, next(iter(t.values()))),
    "walk_and_pop": lambda t, k, h: [t.pop(name) for name, _ in list(t.items())],
    "walk_and_sort": lambda t, k, h: [v.sort() for v in t.values() if isinstance(v, list)],
}


def result(operation: Operation, table: Any, key: str, held: Held) -> str:
    try:
        value = operation(table, key, held)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"{type(value).__name__} {value!r}"


@pytest.fixture(scope="module")
def stock(benchmark_: Benchmark) -> Any:
    return benchmark_.import_module("envs.base")


def sequences(names: list[str]) -> st.SearchStrategy[list[tuple[str, str]]]:
    return st.lists(st.tuples(st.sampled_from(names), st.sampled_from("abcdez")), max_size=12)


def compare(stock: Any, operations: list[tuple[str, str]]) -> None:
    shared = SharedState({"table": RECORDS}, stock.to_hashable)
    state, plain = shared.make_fresh(), copy.deepcopy(RECORDS)
    overlay = state["table"]
    table = overlay.table
    before = repr(table.records)
    held: tuple[Held, Held] = ([], [])
    try:
        for name, key in operations:
            operation = {**EXACT, **RUDE}[name]
            ours = result(operation, overlay, key, held[0])
            settle(state)
            assert ours == result(operation, plain, key, held[1]), name
            assert repr(held[0]) == repr(held[1])
        assert repr(overlay) == repr(plain)
        expected = stock.consistent_hash(stock.to_hashable({"table": plain}))
        assert shared.digest(state) == expected
        assert list(map(type, map(overlay.get, plain))) == list(map(type, plain.values()))
        assert pack(overlay.copy()) == pack(plain)
    finally:
        assert repr(table.records) == before == repr(RECORDS)
        assert not any(keeps_shared(value) for value in map(Overlay(table).get, RECORDS))


@given(sequences(list(EXACT)))
@settings(max_examples=400)
def test_an_overlay_is_a_private_copy(stock: Any, operations: list[tuple[str, str]]) -> None:
    compare(stock, operations)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("key", "adz")
def test_each_operation_is_followed(stock: Any, name: str, key: str) -> None:
    compare(stock, [("getitem", "a"), (name, key), ("poke_held", key), (name, key), ("walk", key)])


@given(sequences([*EXACT, *RUDE]))
@settings(max_examples=400)
def test_what_it_cannot_follow_it_gives_up(stock: Any, operations: list[tuple[str, str]]) -> None:
    try:
        compare(stock, operations)
    except SharedStateChanged:
        assert {name for name, _ in operations} & set(RUDE)


@pytest.mark.parametrize("name", RUDE)
def test_each_rude_operation_is_noticed(stock: Any, name: str) -> None:
    with pytest.raises(SharedStateChanged):
        compare(stock, [(name, "a")])


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.__setitem__("n", 1),
        lambda r: r.__delitem__("n"),
        lambda r: r.__ior__({}),
        lambda r: r.clear(),
        lambda r: r.pop("n"),
        lambda r: r.popitem(),
        lambda r: r.setdefault("n", 1),
        lambda r: r.update(n=1),
        lambda r: r["list"].__setitem__(0, 1),
        lambda r: r["list"].__delitem__(0),
        lambda r: r["list"].__iadd__([1]),
        lambda r: r["list"].__imul__(2),
        lambda r: r["list"].append(1),
        lambda r: r["list"].clear(),
        lambda r: r["list"].extend([1]),
        lambda r: r["list"].insert(0, 1),
        lambda r: r["list"].pop(),
        lambda r: r["list"].remove(1),
        lambda r: r["list"].reverse(),
        lambda r: r["list"].sort(),
        lambda r: r["list"][1].update(deep=2),
    ],
)
def test_a_shared_record_refuses_every_change(change: Callable[[Any], Any]) -> None:
    overlay = Overlay(Table(RECORDS))
    with pytest.raises(SharedStateChanged):
        change(next(iter(overlay.values())))
    assert repr(overlay) == repr(RECORDS)


def test_it_is_no_exception_that_a_tool_or_the_benchmark_could_swallow() -> None:
    assert not issubclass(SharedStateChanged, Exception)


def test_a_shared_record_reads_and_copies_as_plain_data() -> None:
    record = next(iter(Overlay(Table(RECORDS)).values()))
    assert type(record) is FrozenDict and isinstance(record, dict)
    assert record == RECORDS["a"] and repr(record) == repr(RECORDS["a"])
    for copied in (
        copy.deepcopy(record),
        pickle.loads(pickle.dumps(record)),
        json.loads(json.dumps(record)),
    ):
        assert pack(copied) == pack(RECORDS["a"])  # refuses what is not plain
    assert type(record.copy()) is type(copy.copy(record)) is type(record | {}) is dict
    assert type(record["list"] + []) is type(record["list"][:]) is type(record["list"] * 2) is list
