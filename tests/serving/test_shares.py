"""Conversations of a server are shared fairly among sweeps, assistants and cells."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from emobench.serving.shares import Wish, share_conversations


def build_wishes(cells: list[tuple[str, str, int]]) -> list[Wish]:
    return [Wish(f"{number:03}", *cell) for number, cell in enumerate(cells)]


WISHES = st.lists(
    st.tuples(st.sampled_from("xyz"), st.sampled_from("ab"), st.integers(0, 60)), max_size=12
).map(build_wishes)


def sum_by(wishes: list[Wish], shares: dict[str, int], key: str) -> Counter[str]:
    sums: Counter[str] = Counter()
    for wish in wishes:
        sums[getattr(wish, key)] += shares[wish.client]
    return sums


@given(st.integers(0, 400), WISHES)
def test_all_that_fits_is_given_and_nobody_gets_more_than_it_can_use(
    limit: int, wishes: list[Wish]
) -> None:
    shares = share_conversations(limit, wishes)
    assert set(shares) == {wish.client for wish in wishes}
    wanted = {wish.client: max(1, wish.conversations) for wish in wishes}
    assert all(1 <= shares[client] <= most for client, most in wanted.items())
    assert sum(shares.values()) == min(max(limit, len(wishes)), sum(wanted.values()))


@given(st.integers(0, 400), WISHES)
def test_nobody_could_get_more_but_from_one_that_has_no_more(
    limit: int, wishes: list[Wish]
) -> None:
    shares = share_conversations(limit, wishes)
    for level in ("sweep", "assistant", "client"):
        # Neighbours: the cells of one assistant, its assistants within one sweep, the sweeps.
        above = {"sweep": (), "assistant": ("sweep",), "client": ("sweep", "assistant")}[level]
        for family in {tuple(getattr(wish, key) for key in above) for wish in wishes}:
            members = [w for w in wishes if tuple(getattr(w, key) for key in above) == family]
            held = sum_by(members, shares, level)
            wished = Counter[str]()
            for wish in members:
                wished[getattr(wish, level)] += max(1, wish.conversations)
            least = Counter(getattr(wish, level) for wish in members)
            for poor in held:
                if held[poor] < wished[poor]:
                    assert all(held[rich] <= max(held[poor] + 1, least[rich]) for rich in held), (
                        level,
                        held,
                    )


@given(st.integers(0, 400), WISHES, st.randoms())
def test_the_order_of_the_clients_does_not_matter(
    limit: int, wishes: list[Wish], random: Random
) -> None:
    shuffled = list(wishes)
    random.shuffle(shuffled)
    assert share_conversations(limit, shuffled) == share_conversations(limit, wishes)


@given(st.integers(0, 400), WISHES)
def test_a_higher_limit_takes_from_nobody(limit: int, wishes: list[Wish]) -> None:
    before, after = share_conversations(limit, wishes), share_conversations(limit + 1, wishes)
    assert sum(abs(after[each] - before[each]) for each in before) <= 1


def test_a_sweep_of_one_cell_gets_as_much_as_one_of_many() -> None:
    wishes = build_wishes([("big", "a", 50)] * 4 + [("small", "a", 50)])
    shares = share_conversations(40, wishes)
    assert sum_by(wishes, shares, "sweep") == {"big": 20, "small": 20}


def test_what_one_cannot_use_the_others_get() -> None:
    wishes = build_wishes([("s", "a", 2), ("s", "b", 50), ("s", "b", 50)])
    assert list(share_conversations(32, wishes).values()) == [2, 15, 15]


def test_later_turns_get_what_the_earlier_leave_and_one_each() -> None:
    wishes = [
        Wish("now", "s", "a", 50, turn=4),
        Wish("next", "s", "a", 50, turn=8),
        Wish("then", "s", "a", 50, turn=12),
        Wish("other", "s", "b", 50, turn=12),
    ]
    assert share_conversations(40, wishes) == {"now": 18, "next": 1, "then": 1, "other": 20}
    wishes[0] = Wish("now", "s", "a", 3, turn=4)
    assert share_conversations(40, wishes) == {"now": 3, "next": 16, "then": 1, "other": 20}
    assert set(share_conversations(2, wishes).values()) == {1}


@given(st.integers(0, 400), WISHES, st.lists(st.integers(0, 2), min_size=12, max_size=12))
def test_turns_move_conversations_among_the_cells_of_one_assistant_only(
    limit: int, wishes: list[Wish], turns: list[int]
) -> None:
    in_turn = [replace(wish, turn=turn) for wish, turn in zip(wishes, turns, strict=False)]
    shares, alike = share_conversations(limit, in_turn), share_conversations(limit, wishes)
    for key in ("sweep", "assistant"):
        assert sum_by(in_turn, shares, key) == sum_by(wishes, alike, key)
    for wish in in_turn:
        if shares[wish.client] < wish.conversations:
            after = [w for w in in_turn if w.turn > wish.turn]
            after = [w for w in after if (w.sweep, w.assistant) == (wish.sweep, wish.assistant)]
            assert all(shares[later.client] == 1 for later in after)
