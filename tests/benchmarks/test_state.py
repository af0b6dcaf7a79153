"""A state's hash, put together from kept pieces, is the one that stock computes."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emobench.benchmarks import state as state_module
from emobench.benchmarks.adapter import Benchmark
from emobench.benchmarks.overlay import SharedStateChanged, settle
from emobench.benchmarks.state import SharedState, make_shared_env_class, preload

SCALARS = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, -1, 10, 2**70, 0.0, -0.0, 1.0, 10.0, 1e22, float("nan"), float("inf")])
    | st.sampled_from(["", "1", "it's", '"', "\\", "\n", "\u00e9\U0001f600", "\ud800", "\u2028"])
)
KEYS = st.sampled_from(["", "a", "b", "B", "1", "10", "9", "\u00e9", "it's"])
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
)
# What a tool may put there although JSON has none of it.
ODD = st.recursive(
    JSON
    | st.sets(st.integers(0, 3))
    | st.binary(max_size=2).map(bytearray)
    | st.binary(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(KEYS | st.integers(0, 2) | st.booleans(), inner, max_size=2)
        | st.tuples(inner)
        | st.tuples(inner, inner)
    ),
)
TABLES = st.dictionaries(KEYS, st.dictionaries(KEYS, JSON, max_size=4), min_size=0, max_size=3)
Changes = list[tuple[str, Any, Any]]


@given(TABLES, st.lists(st.tuples(KEYS, KEYS, JSON | ODD | st.just(...)), max_size=6))
@settings(max_examples=300)
def test_random_states_hash_as_in_stock(
    benchmark_: Benchmark, tables: dict[str, Any], changes: Changes
) -> None:
    stock = benchmark_.import_module("envs.base")
    shared = SharedState(tables, stock.to_hashable)
    ours, plain = shared.make_fresh(), copy.deepcopy(tables)
    for name, key, value in changes:
        for state in (ours, plain):
            if name not in state:
                continue
            if value is ...:
                state[name].pop(key, None)
            else:
                state[name][key] = copy.deepcopy(value)
    for _ in range(2):  # made, then remembered
        assert outcome(shared.digest, ours) == outcome(stock_hash(stock), plain)
    assert shared.digest(shared.make_fresh()) == stock_hash(stock)(tables)


def stock_hash(stock: Any) -> Any:
    return lambda state: stock.consistent_hash(stock.to_hashable(state))


def outcome(function: Any, state: Any) -> Any:
    try:
        return function(state)
    except Exception as error:
        return type(error), str(error)


@pytest.fixture
def small(benchmark_: Benchmark) -> Iterator[Any]:
    """A stock environment of our class, its data three records in two tables."""
    stock = benchmark_.import_module("envs.base")
    data = {"t": {"a": {"n": [1]}, "b": {"n": [2]}}, "u": {"c": 1}}

    def load_data() -> Any:
        return copy.deepcopy(data)

    class Small(stock.Env):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__(
                data_load_func=load_data,
                tools=[],
                tasks=[None],
                wiki="",
                rules=[],
                user_strategy="llm",
                user_model="",
                task_index=0,
            )

    env = make_shared_env_class(Small, stock)()
    yield env
    make_shared_env_class.cache_clear()
    state_module._shared.pop(load_data)


def replace_table(data: Any) -> None:
    data["t"] = {"a": {"n": [1]}, "z": 1}


def swap_tables(data: Any) -> None:
    data["t"], data["u"] = data["u"], data["t"]


def drop_table(data: Any) -> None:
    del data["t"]


def add_table(data: Any) -> None:
    data["s"] = {"x": {1, 2}}


def integer_key(data: Any) -> None:
    data["t"][1] = 1


def nest_table(data: Any) -> None:
    data["t"]["a"]["all"] = data["u"]


def scalar_table(data: Any) -> None:
    data["u"] = 5


def text_of_other_class(data: Any) -> None:
    data["t"]["a"]["n"] = type("Text", (str,), {})("1")


@pytest.mark.parametrize(
    "change",
    [
        replace_table,
        swap_tables,
        drop_table,
        add_table,
        integer_key,
        nest_table,
        scalar_table,
        text_of_other_class,
    ],
)
def test_unusual_states_hash_as_in_stock(small: Any, change: Any, benchmark_: Benchmark) -> None:
    plain = {"t": {"a": {"n": [1]}, "b": {"n": [2]}}, "u": {"c": 1}}
    change(small.data)
    change(plain)
    expected = outcome(stock_hash(benchmark_.import_module("envs.base")), plain)
    assert outcome(lambda _: small.get_data_hash(), None) == expected


def test_what_was_lent_is_looked_for_before_the_next_call(small: Any) -> None:
    data = small.data
    data["s"] = list(data["t"].values())
    with pytest.raises(SharedStateChanged):
        small.get_data_hash()
    small.data = small.data_load_func()
    for record in small.data["t"].values():
        assert record["n"]
    small.data["t"]["a"]["n"].append(3)  # a later call, which may ask for records again
    assert small.data["t"]["a"] == {"n": [1, 3]}


def test_data_of_another_kind_is_left_to_stock(benchmark_: Benchmark) -> None:
    stock = benchmark_.import_module("envs.base")
    kinds: list[Any] = [[1], {"t": [1]}, {"t": {1: 2}}, {1: {}}, {"t": {"a": object()}}]
    for data in kinds:
        assert state_module._build_shared_state(data, stock) is None


def test_another_way_of_hashing_is_left_to_stock(benchmark_: Benchmark) -> None:
    class Other:
        to_hashable = staticmethod(benchmark_.import_module("envs.base").to_hashable)
        consistent_hash = staticmethod(repr)

    assert state_module._build_shared_state({"t": {"a": 1}}, Other) is None


def test_an_environment_without_shared_data_is_stock_s_own(benchmark_: Benchmark) -> None:
    env = benchmark_.make_env("retail", 0, "llm", "none")
    assert type(env).__mro__[1] is benchmark_.import_module("envs.base").Env
    assert all(type(table) is dict for table in env.data.values())
    shared = benchmark_.make_env("retail", 0, "llm", "none", shared=True)
    assert isinstance(shared, type(env)) and type(shared).__name__ == type(env).__name__


def test_the_collector_leaves_loaded_data_alone(benchmark_: Benchmark) -> None:
    def load_data() -> Any:
        return {"t": {"a": {"n": [1]}}}

    try:
        preload(load_data, benchmark_.import_module("envs.base"))
        count = gc.get_freeze_count()
        assert count > 0
        preload(load_data, benchmark_.import_module("envs.base"))
        assert gc.get_freeze_count() <= count, "the second time is no event"
    finally:
        gc.unfreeze()
        state_module._shared.pop(load_data)


def test_settling_an_untouched_state_is_no_event(small: Any) -> None:
    settle(small.data)
    assert not any(table.touched for table in small.data.values())
