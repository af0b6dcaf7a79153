"""The benchmark's data, read once a process, and its hash from pieces that are kept.

Stock reads 2 to 5 MB of JSON three times an episode and hashes its whole text twice. Here the
stock environment runs unchanged over overlays of one shared copy (see `overlay`), and
`get_data_hash` puts together the very text that stock would hash, so that the reward and all of
its info are stock's. What this module cannot vouch for goes to stock's own code.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import cache
from itertools import islice
from threading import Lock
from typing import Any

from emobench.benchmarks.hashing import (
    Changes,
    HashedText,
    TableText,
    format_tuple,
    make_fast_hashable,
)
from emobench.benchmarks.overlay import Overlay, Table, pack, settle

_SEPARATOR = ", "
_KEPT = 4096  # ground truths repeat over trials; some KB each


class SharedState:
    """The data of one environment, with each record's part of the text that stock hashes."""

    def __init__(self, data: dict[str, dict[str, Any]], to_hashable: Callable[[Any], Any]) -> None:
        self._hashable = make_fast_hashable(to_hashable)
        self._tables = {name: Table(records) for name, records in data.items()}
        self._names = sorted(data)
        self._texts: dict[str, TableText] = {}
        text = b"("
        for name in self._names:
            text += f"{_SEPARATOR if len(text) > 1 else ''}({name!r}, ".encode()
            keys = sorted(data[name])
            pieces = [self._format_piece(key, data[name][key]) for key in keys]
            self._texts[name] = TableText(keys, pieces, len(text))
            text += format_tuple(pieces) + b")"
        self._text = HashedText(text + (b",)" if len(data) == 1 else b")"))
        self._hashes: dict[tuple[Changes, ...], str] = {}
        self._changed_pieces: dict[tuple[str, bytes], bytes] = {}

    def make_fresh(self) -> dict[str, Any]:
        """Return the data for one episode, in place of stock's `load_data`."""
        return {name: Overlay(table) for name, table in self._tables.items()}

    def digest(self, state: dict[str, Any]) -> str | None:
        """Return stock's hash of a state that began as `make_fresh()`; None where only stock can
        tell."""
        if state.keys() != self._tables.keys():
            return None
        changes: list[Changes] = []
        for name in self._names:
            found = self._find_changes(name, state[name])
            if found is None:
                return None
            changes.append(found)
        key = tuple(changes)
        digest = self._hashes.get(key)
        if digest is None:
            edits = [
                edit
                for name, changed in zip(self._names, key, strict=True)
                for edit in self._texts[name].list_edits(changed)
            ]
            digest = self._text.digest(edits)
            if len(self._hashes) >= _KEPT:
                self._hashes.clear()
            self._hashes[key] = digest
        return digest

    def _format_piece(self, key: str, record: Any) -> bytes:
        return repr((key, self._hashable(record))).encode()

    def _find_changes(self, name: str, overlay: Any) -> Changes | None:
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
                packed = _pack(record)
                if packed is None or packed != table.packed.get(key):
                    changes.append((key, self._format_changed_piece(key, record, packed)))
            elif key in table.packed:
                changes.append((key, None))
        return tuple(changes)

    def _format_changed_piece(self, key: str, record: Any, packed: bytes | None) -> bytes:
        """Return a changed record's text; where the models do what is right, two states hold the
        same."""
        if packed is None:
            return self._format_piece(key, record)
        known = self._changed_pieces.get((key, packed))
        if known is None:
            if len(self._changed_pieces) >= _KEPT:
                self._changed_pieces.clear()
            known = self._changed_pieces[key, packed] = self._format_piece(key, record)
        return known


def _pack(record: Any) -> bytes | None:
    try:
        return pack(record)
    except ValueError:
        return None


_shared: dict[Any, SharedState | None] = {}
_loading = Lock()


def read_shared_state(load_data: Callable[[], Any], stock: Any) -> SharedState | None:
    """Return what stock's `load_data` reads, read once a process; `stock` is the module
    `envs.base`.

    None where the data or the way it is hashed is not what this module knows.
    """
    with _loading:
        if load_data not in _shared:
            _shared[load_data] = _build_shared_state(load_data(), stock)
        return _shared[load_data]


def preload(load_data: Callable[[], Any], stock: Any) -> None:
    """Read what `read_shared_state` gives, and take it out of the garbage collector's rounds.

    That acts on the whole process, once for each `load_data`, and on all that exists by then: best
    before the first episode, so that no round walks over the shared data again. What is garbage
    by then stays: to look for it first would take as long as reading the data.
    """
    if load_data in _shared:
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        read_shared_state(load_data, stock)
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def _build_shared_state(data: Any, stock: Any) -> SharedState | None:
    if not _is_tables(data):
        return None
    try:
        # A few records tell whether this version of the benchmark hashes as stock did.
        sample = {name: dict(islice(records.items(), 3)) for name, records in data.items()}
        state = SharedState(sample, stock.to_hashable)
        if state.digest(state.make_fresh()) != stock.consistent_hash(stock.to_hashable(sample)):
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
def make_shared_env_class(env_class: type[Any], stock: Any) -> type[Any]:
    """Return a stock environment's class that works over shared data; `stock` is `envs.base`."""

    class SharedEnv(stock.Env):  # type: ignore[misc]
        def __init__(self, data_load_func: Callable[[], Any], **arguments: Any) -> None:
            self._shared = read_shared_state(data_load_func, stock)
            load = self._shared.make_fresh if self._shared else data_load_func
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
