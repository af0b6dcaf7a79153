"""The benchmark's data, read once a process, and its hash from pieces that are kept.

Stock reads 2 to 5 MB of JSON three times an episode and hashes its whole text twice. Here the
stock environment runs unchanged over overlays of one shared copy (see `overlay`), and
`get_data_hash` puts together the very text that stock would hash, so that the reward and all of
its info are stock's. What this module cannot vouch for goes to stock's own code.
"""

from __future__ import annotations

import gc
from bisect import bisect_left
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from itertools import accumulate, islice
from threading import Lock
from typing import Any

from emobench.benchmarks.overlay import Overlay, Table, pack, settle

Changes = tuple[tuple[str, bytes | None], ...]
"""By key, in order: the text of a record that is not as in the table, None where it is gone."""

_COMMA = b", "
_KEPT_HASHES = 4096  # ground truths repeat over trials; some KB each


class SharedState:
    """The data of one environment, with each record's part of the text that stock hashes."""

    def __init__(self, data: dict[str, dict[str, Any]], to_hashable: Callable[[Any], Any]) -> None:
        self._to_hashable = to_hashable
        self._tables = {name: Table(records) for name, records in data.items()}
        self._names = sorted(data)
        self._keys = {name: sorted(records) for name, records in data.items()}
        self._pieces = {
            name: [self._piece(key, data[name][key]) for key in keys]
            for name, keys in self._keys.items()
        }
        self._texts = {name: _tuple_text(pieces) for name, pieces in self._pieces.items()}
        self._begins = {
            name: list(
                accumulate((len(piece) + len(_COMMA) for piece in pieces), initial=len(b"("))
            )
            for name, pieces in self._pieces.items()
        }
        """Where each piece begins in its table's text, and where one more would."""
        self._hashes: dict[tuple[Changes, ...], str] = {}

    def fresh(self) -> dict[str, Any]:
        """The data for one episode, in place of stock's `load_data`."""
        return {name: Overlay(table) for name, table in self._tables.items()}

    def digest(self, state: dict[str, Any]) -> str | None:
        """Stock's hash of a state that began as `fresh()`; None where only stock can tell."""
        if state.keys() != self._tables.keys():
            return None
        changes: list[Changes] = []
        for name in self._names:
            found = self._changes(name, state[name])
            if found is None:
                return None
            changes.append(found)
        key = tuple(changes)
        digest = self._hashes.get(key)
        if digest is None:
            digest = self._digest(key)
            if len(self._hashes) >= _KEPT_HASHES:
                self._hashes.clear()
            self._hashes[key] = digest
        return digest

    def _piece(self, key: str, record: Any) -> bytes:
        return repr((key, self._to_hashable(record))).encode()

    def _changes(self, name: str, overlay: Any) -> Changes | None:
        table = self._tables[name]
        # A tool may have put another table in its place, or a key that does not sort with others.
        if type(overlay) is not Overlay or overlay.table is not table:
            return None
        if any(type(key) is not str for key in overlay.touched):
            return None
        changes: list[tuple[str, bytes | None]] = []
        for key in sorted(overlay.touched):
            if key in overlay:
                record = dict.__getitem__(overlay, key)
                if not _is_packed_as(record, table.packed.get(key)):
                    changes.append((key, self._piece(key, record)))
            elif key in table.packed:
                changes.append((key, None))
        return tuple(changes)

    def _digest(self, changes: tuple[Changes, ...]) -> str:
        digest = sha256(b"(")
        separator = ""
        for name, changed in zip(self._names, changes, strict=True):
            digest.update(f"{separator}({name!r}, ".encode())
            for part in self._parts(name, changed):
                digest.update(part)
            digest.update(b")")
            separator = ", "
        digest.update(b",)" if len(self._names) == 1 else b")")
        return digest.hexdigest()

    def _parts(self, name: str, changes: Changes) -> list[bytes | memoryview]:
        """The text of a table with these changes; most of it is not copied."""
        keys, begins = self._keys[name], self._begins[name]
        text, done = memoryview(self._texts[name]), 0
        parts: list[bytes | memoryview] = []
        for key, piece in changes:
            position = bisect_left(keys, key)
            if piece is None or position == len(keys) or keys[position] != key:
                return [self._changed_text(name, changes)]  # another number of records
            parts += [text[done : begins[position]], piece]
            done = begins[position + 1] - len(_COMMA)
        return [*parts, text[done:]]

    def _changed_text(self, name: str, changes: Changes) -> bytes:
        keys, pieces = self._keys[name], self._pieces[name].copy()
        for key, piece in reversed(changes):  # from the end, so that positions before it hold
            position = bisect_left(keys, key)
            if position == len(keys) or keys[position] != key:
                assert piece is not None
                pieces.insert(position, piece)
            elif piece is None:
                del pieces[position]
            else:
                pieces[position] = piece
        return _tuple_text(pieces)


def _is_packed_as(record: Any, packed: bytes | None) -> bool:
    try:
        return pack(record) == packed
    except ValueError:
        return False


def _tuple_text(pieces: list[bytes]) -> bytes:
    return b"(" + _COMMA.join(pieces) + (b",)" if len(pieces) == 1 else b")")


_shared: dict[Any, SharedState | None] = {}
_loading = Lock()


def shared_state(load_data: Callable[[], Any], stock: Any) -> SharedState | None:
    """What stock's `load_data` reads, read once a process; `stock` is the module `envs.base`.

    None where the data or the way it is hashed is not what this module knows.
    """
    with _loading:
        if load_data not in _shared:
            _shared[load_data] = _shared_state(load_data(), stock)
        return _shared[load_data]


def preload(load_data: Callable[[], Any], stock: Any) -> None:
    """Read what `shared_state` gives, and take it out of the garbage collector's rounds.

    That acts on the whole process, once for each `load_data`, and on all that exists by then: best
    before the first episode, so that no round walks over the shared data again.
    """
    if load_data not in _shared:
        shared_state(load_data, stock)
        gc.collect()
        gc.freeze()


def _shared_state(data: Any, stock: Any) -> SharedState | None:
    if not _is_tables(data):
        return None
    try:
        # A few records tell whether this version of the benchmark hashes as stock did.
        sample = {name: dict(islice(records.items(), 3)) for name, records in data.items()}
        state = SharedState(sample, stock.to_hashable)
        if state.digest(state.fresh()) != stock.consistent_hash(stock.to_hashable(sample)):
            return None
        return SharedState(data, stock.to_hashable)
    except ValueError:
        return None


def _is_tables(data: Any) -> bool:
    return type(data) is dict and all(
        type(name) is str and type(records) is dict and all(type(key) is str for key in records)
        for name, records in data.items()
    )


@cache
def shared_env_class(env_class: type[Any], stock: Any) -> type[Any]:
    """A stock environment's class that works over shared data; `stock` is `envs.base`."""

    class SharedEnv(stock.Env):  # type: ignore[misc]
        def __init__(self, data_load_func: Callable[[], Any], **arguments: Any) -> None:
            self._shared = shared_state(data_load_func, stock)
            load = self._shared.fresh if self._shared else data_load_func
            super().__init__(data_load_func=load, **arguments)

        @property
        def data(self) -> Any:
            # Stock's step reads this once a tool call.
            data = self.__dict__["data"]
            if self._shared:
                settle(data)
            return data

        @data.setter
        def data(self, data: Any) -> None:
            self.__dict__["data"] = data

        def get_data_hash(self) -> str:
            digest = self._shared.digest(self.data) if self._shared else None
            return str(super().get_data_hash()) if digest is None else digest

    # In this order SharedEnv stands between the environment and stock's Env.
    return type(env_class.__name__, (env_class, SharedEnv), {})
