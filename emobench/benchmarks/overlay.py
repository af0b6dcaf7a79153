"""A table that many episodes share, and an episode's own view of it.

`Overlay` is a dict that behaves like a private deep copy of a `Table` without being copied: a
record becomes private when it is asked for by its key, and is shared as long as a tool only walks
over the table (`values`, `items`). Walking hands out frozen records. Three things keep that exact
for tools nobody has seen:

- a frozen record refuses every change, by an exception that is no `Exception`, because tau-bench
  shows those to the agent as the tool's answer;
- a table that a tool has walked over makes no record private until that tool has returned:
  otherwise the tool could hold the frozen record and miss a change of the private one;
- whatever a tool keeps of a walk beyond its return is found by `keeps_shared`.

In each case `SharedStateChanged` says that the episode has to be repeated on plain copies. Only C
code that writes into a list without asking its type (heapq) would go unnoticed.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable
from typing import Any, NoReturn

# Format 2 has no references between equal objects: equal values of equal types, in equal order,
# give equal bytes, and nothing else does.
_FORMAT = 2
_ABSENT = object()


class SharedStateChanged(BaseException):
    """A tool did what an overlay cannot follow: repeat the episode on stock's own copies."""


def pack(value: Any) -> bytes:
    """Return `value` as bytes that tell 1, 1.0 and True apart.

    Raises ValueError for what is not plain data, frozen records and overlays included.
    """
    return marshal.dumps(value, _FORMAT)


class FrozenDict(dict[Any, Any]):
    """A shared object of JSON: reads like a dict, copies and pickles as a dict, never changes."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return dict, (), None, None, iter(self.items())


class FrozenList(list[Any]):
    """A shared array of JSON: reads like a list, copies and pickles as a list, never changes."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return list, (), None, iter(self)


def _refuse(self: Any, *_: Any, **__: Any) -> NoReturn:
    raise SharedStateChanged("a tool changed a record that it had not asked for by its key")


for _kind, _mutators in (
    (FrozenDict, "__setitem__ __delitem__ __ior__ clear pop popitem setdefault update"),
    (
        FrozenList,
        "__setitem__ __delitem__ __iadd__ __imul__ append clear extend insert pop remove reverse "
        "sort",
    ),
):
    for _name in _mutators.split():
        setattr(_kind, _name, _refuse)

_FROZEN = (FrozenDict, FrozenList)
_SCALARS = (str, int, float, complex, bytes, type(None))


def freeze(value: Any) -> Any:
    """Return a frozen copy of plain data."""
    if isinstance(value, dict):
        return FrozenDict(
            {key: item if type(item) in _SCALARS else freeze(item) for key, item in value.items()}
        )
    if isinstance(value, list):
        return FrozenList([item if type(item) in _SCALARS else freeze(item) for item in value])
    return value


class Table:
    """Records that all overlays of a process share. Raises ValueError where they are not JSON."""

    __slots__ = ("packed", "records")

    def __init__(self, records: dict[str, Any]) -> None:
        self.packed = {key: pack(record) for key, record in records.items()}
        self.records = {key: freeze(record) for key, record in records.items()}


class Overlay(dict[Any, Any]):
    """A private view of a table. Costs one shallow copy; see the module for its rules.

    Methods hand their arguments to dict's own ones, so that errors read as they do in stock.
    """

    __slots__ = ("lent", "table", "touched")

    table: Table
    touched: set[Any]
    """Keys whose record is private, replaced, new or gone; all others are as in the table."""
    lent: bool
    """Walked over since the last `settle`: a tool may hold frozen records."""

    def __init__(self, table: Table) -> None:
        dict.__init__(self, table.records)
        self.table = table
        self.touched = set()
        self.lent = False

    def _thaw(self, key: Any) -> Any:
        if self.lent:
            raise SharedStateChanged("a tool walked over a table and then asked for a record of it")
        self.touched.add(key)
        return marshal.loads(self.table.packed[key])

    def __getitem__(self, key: Any) -> Any:
        record = dict.__getitem__(self, key)
        if type(record) in _FROZEN:
            record = self._thaw(key)
            dict.__setitem__(self, key, record)
        return record

    def get(self, *args: Any, **kwargs: Any) -> Any:
        record = dict.get(self, *args, **kwargs)
        return self[args[0]] if type(record) in _FROZEN and args[0] in self else record

    def setdefault(self, *args: Any, **kwargs: Any) -> Any:
        size = len(self)
        record = dict.setdefault(self, *args, **kwargs)
        if len(self) == size:
            return self[args[0]]
        self._note(args[0], record)
        return record

    def __setitem__(self, key: Any, value: Any) -> None:
        dict.__setitem__(self, key, value)
        self._note(key, value)

    def _note(self, key: Any, value: Any) -> None:
        if type(value) in _FROZEN:
            raise SharedStateChanged("a tool stored a record that it had not asked for by its key")
        self.touched.add(key)

    def __delitem__(self, key: Any) -> None:
        dict.__delitem__(self, key)
        self.touched.add(key)

    def pop(self, *args: Any, **kwargs: Any) -> Any:
        size = len(self)
        record = dict.pop(self, *args, **kwargs)
        return record if len(self) == size else self._take(args[0], record)

    def popitem(self) -> tuple[Any, Any]:
        key, record = dict.popitem(self)
        return key, self._take(key, record)

    def _take(self, key: Any, record: Any) -> Any:
        self.touched.add(key)
        return self._thaw(key) if type(record) in _FROZEN else record

    def clear(self) -> None:
        self.touched.update(dict.keys(self))
        dict.clear(self)

    def update(self, *args: Any, **kwargs: Any) -> None:
        self._merge(dict.update, *args, **kwargs)

    def __ior__(self, other: Any) -> Any:
        return self._merge(dict.__ior__, other)

    def _merge(self, native: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        before = dict(dict.items(self))  # dict.copy would ask for each key
        try:
            return native(self, *args, **kwargs)
        finally:  # what came before an error stays, as in a dict
            for key, value in dict.items(self):
                if before.get(key, _ABSENT) is not value:
                    self._note(key, value)

    # An `__iter__` of its own keeps `dict(table)`, `{**table}` and `update` from copying the
    # shared records behind our back: with it, C code asks for each key.
    def __iter__(self) -> Any:
        return dict.__iter__(self)

    def values(self) -> Any:
        self.lent = True
        return dict.values(self)

    def items(self) -> Any:
        self.lent = True
        return dict.items(self)

    def copy(self) -> dict[Any, Any]:
        for key in self:
            self[key]
        return dict.copy(self)

    __copy__ = copy

    def __or__(self, other: Any) -> Any:
        return dict.__or__(self.copy(), other)

    def __ror__(self, other: Any) -> Any:
        return dict.__ror__(self.copy(), other)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return dict, (), None, None, iter(dict.items(self))

    fromkeys = staticmethod(dict.fromkeys)  # type: ignore[assignment]


# Python's messages name an object's type, and tau-bench shows them to the agent.
FrozenDict.__name__ = Overlay.__name__ = "dict"
FrozenList.__name__ = "list"


def settle(state: dict[str, Any]) -> None:
    """Take back, between two tool calls, all that the last one was lent.

    Raises SharedStateChanged where a frozen record, or what could lead to one, was kept.
    """
    if not any(type(table) is Overlay and table.lent for table in state.values()):
        return
    for table in state.values():
        if type(table) is not Overlay:
            kept = keeps_shared(table)
        else:
            kept = any(keeps_shared(dict.get(table, key)) for key in table.touched)
        if kept:
            raise SharedStateChanged("a tool kept a record that it had not asked for by its key")
    for table in state.values():
        if type(table) is Overlay:
            table.lent = False


def keeps_shared(value: Any) -> bool:
    """Return whether frozen records may be reached from `value`; plain data is told in
    microseconds."""
    try:
        pack(value)
    except ValueError:
        return _leads_to_shared(value, depth=0)
    return False


def _leads_to_shared(value: Any, depth: int) -> bool:
    if type(value) in _FROZEN or type(value) is Overlay or depth > 100:
        return True
    if isinstance(value, dict):
        return any(_leads_to_shared(item, depth + 1) for item in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return any(_leads_to_shared(item, depth + 1) for item in value)
    return not isinstance(value, _SCALARS)
