"""The text that stock hashes of a state, and its SHA-256 without reading again what is unchanged.

Stock's hash is SHA-256 of `str(to_hashable(data))`: one text of 1 to 4 MB, of which an episode
changes a few records. The hash of what stands before the first change is kept, and the rest is
read from the unchanged text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import accumulate
from typing import Any

Changes = tuple[tuple[str, bytes | None], ...]
"""By key, in order: the text of a record that is not as in the table, None where it is gone."""
Edit = tuple[int, int, bytes]
"""(begin, end, text): what stands between two offsets of the whole text is this instead."""

_COMMA = b", "
_KEEP_EVERY = 32 * 1024
_AWKWARD: dict[str, Any] = {
    "b": [1, 1.0, True, None, {"z": [], "a": {}}, ()],
    "a": {"é\ud800'": '"\\\n', "2": {1, 2}, "1": (3, [4])},
}
"""Values whose text must be stock's, whatever a later version does to them."""
_PLAIN = (str, int, float, bool, type(None))


def make_fast_hashable(stock: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return stock's `to_hashable`, in half the time; itself where it is not the one that we
    know."""

    def hashable(item: Any) -> Any:
        kind = type(item)
        if kind is dict:
            return tuple(
                [
                    (key, value if type(value) in _PLAIN else hashable(value))
                    for key, value in sorted(item.items())
                ]
            )
        if kind is list:
            return tuple([part if type(part) in _PLAIN else hashable(part) for part in item])
        return item if kind in _PLAIN else stock(item)

    return hashable if repr(hashable(_AWKWARD)) == repr(stock(_AWKWARD)) else stock


def format_tuple(pieces: Sequence[bytes]) -> bytes:
    """Return the text of a tuple whose members have these texts."""
    return b"(" + _COMMA.join(pieces) + (b",)" if len(pieces) == 1 else b")")


class TableText:
    """Where the records of one table stand in the whole text."""

    def __init__(self, keys: list[str], pieces: list[bytes], begin: int) -> None:
        """`keys` are sorted; the table's text begins at offset `begin`."""
        self._keys, self._pieces, self._begin = keys, pieces, begin
        lengths = (len(piece) + len(_COMMA) for piece in pieces)
        self._begins = list(accumulate(lengths, initial=begin + len(b"(")))
        """Where each piece begins, and where one more would."""
        self._end = begin + len(format_tuple(pieces))

    def list_edits(self, changes: Changes) -> list[Edit]:
        """Return what the changes do to the whole text, in order."""
        edits: list[Edit] = []
        for key, piece in changes:
            position = bisect_left(self._keys, key)
            if piece is None or position == len(self._keys) or self._keys[position] != key:
                # Another number of records: the commas change as well.
                return [(self._begin, self._end, self._format_changes(changes))]
            end = self._begins[position + 1] - len(_COMMA)
            edits.append((self._begins[position], end, piece))
        return edits

    def _format_changes(self, changes: Changes) -> bytes:
        pieces = self._pieces.copy()
        for key, piece in reversed(changes):  # from the end, so that positions before it hold
            position = bisect_left(self._keys, key)
            if position == len(self._keys) or self._keys[position] != key:
                assert piece is not None
                pieces.insert(position, piece)
            elif piece is None:
                del pieces[position]
            else:
                pieces[position] = piece
        return format_tuple(pieces)


class HashedText:
    """A text, and the SHA-256 of it with edits."""

    def __init__(self, text: bytes) -> None:
        self._text = memoryview(text)
        digest = sha256()
        self._kept = [digest.copy()]
        """Of the text before each multiple of the step."""
        for begin in range(0, len(text), _KEEP_EVERY):
            digest.update(self._text[begin : begin + _KEEP_EVERY])
            self._kept.append(digest.copy())

    def digest(self, edits: Sequence[Edit]) -> str:
        """Return the hash in hex. Edits are in order and do not overlap."""
        if not edits:
            return self._kept[-1].hexdigest()
        step = edits[0][0] // _KEEP_EVERY
        digest, done = self._kept[step].copy(), step * _KEEP_EVERY
        for begin, end, text in edits:
            digest.update(self._text[done:begin])
            digest.update(text)
            done = end
        digest.update(self._text[done:])
        return digest.hexdigest()
