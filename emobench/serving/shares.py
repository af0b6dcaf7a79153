"""How the conversations that fit at a server are shared among the cells that use it. Pure.

Max-min fair ("water filling", Bertsekas and Gallager, Data Networks, 1992, 6.5.2): first among
sweeps, within each among its assistants, within each of these among its cells. Nobody gets more
than it can use, and nobody could get more but from one that has no more than it. Only cells whose
turn comes later get what the earlier ones leave, and one conversation each: cells that went on
alike would all end at once, with nothing left for the server to do meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Wish:
    """What one cell could use of a server now."""

    client: str
    """Tells it from all others; also the order in which what does not divide evenly is given."""
    sweep: str
    assistant: str
    conversations: int
    """At least 1 is taken for granted."""
    turn: int = 0
    """Among the cells of its assistant: the lower ones are filled first."""


@dataclass(frozen=True)
class _Group:
    least: int
    most: int
    turn: int


def share_conversations(limit: int, wishes: Sequence[Wish]) -> dict[str, int]:
    """Return each client's conversations; together they are `limit`, or all that is wished for.

    Each client has at least one, so that it moves: with more clients than `limit` that is what
    each gets.
    """
    return _share(limit, {(wish.sweep, wish.assistant, wish.client): wish for wish in wishes})


def _share(limit: int, wishes: Mapping[tuple[str, ...], Wish]) -> dict[str, int]:
    """Share among the groups that the first part of the key makes, and go on within each."""
    groups: dict[str, dict[tuple[str, ...], Wish]] = defaultdict(dict)
    for key, wish in wishes.items():
        groups[key[0]][key[1:]] = wish
    bounds = {
        name: _Group(
            len(group),
            sum(max(1, wish.conversations) for wish in group.values()),
            group[()].turn if () in group else 0,
        )
        for name, group in groups.items()
    }
    parts = _fill_by_turns(limit, bounds)
    shares: dict[str, int] = {}
    for name, group in groups.items():
        if () in group:
            shares[name] = parts[name]
        else:
            shares |= _share(parts[name], group)
    return shares


def _fill_by_turns(limit: int, groups: Mapping[str, _Group]) -> dict[str, int]:
    """Fill the groups turn by turn with what is left, but for the least of those after."""
    parts: dict[str, int] = {}
    later = sum(each.least for each in groups.values())
    for turn in sorted({each.turn for each in groups.values()}):
        now = {name: each for name, each in groups.items() if each.turn == turn}
        later -= sum(each.least for each in now.values())
        parts |= _fill(limit - sum(parts.values()) - later, now)
    return parts


def _fill(limit: int, groups: Mapping[str, _Group]) -> dict[str, int]:
    """Return parts as equal as the bounds allow, by the highest level that does not overflow."""

    def fill_to(level: int) -> dict[str, int]:
        return {name: min(max(level, each.least), each.most) for name, each in groups.items()}

    low, high = 0, max((each.most for each in groups.values()), default=0)
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if sum(fill_to(level).values()) <= limit else (low, level - 1)
    parts = fill_to(low)
    over = limit - sum(parts.values())
    for name in sorted(groups):
        if over > 0 and parts[name] < groups[name].most and parts[name] <= low:
            parts[name] += 1
            over -= 1
    return parts
