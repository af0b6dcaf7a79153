"""Conversations in a row that the same rejection ended: more than a few are the server's doing.

A server that refuses what one conversation holds is data. If it says the same of one conversation
after the other, it would say so of all: then they are missing, and are run again. So would several
servers behind one address, each with words of its own.
"""

from __future__ import annotations

import re
from dataclasses import replace

from emobench.core.outcomes import Outcome
from emobench.store.episodes import EpisodeError, EpisodeRecord

SAME_IN_A_ROW = 3
"""Conversations that the same rejection ends, with none between them that ended otherwise than by
a rejection, before it counts as the server's."""
HELD = 3 * SAME_IN_A_ROW
"""Rejected conversations that wait for it; more would be lost where the cell is killed."""
_ODD = re.compile(r"(?<!\S)\S*\d\S*")
"""Numbers and ids, which differ between two answers that say the same."""


class RejectionRow:
    """Holds back rejected conversations until it is known whose doing their end was.

    What is on disk as a result stays one, so that nothing may be written too early.
    """

    def __init__(self) -> None:
        self._held: list[tuple[str, EpisodeRecord]] = []
        self._servers: set[str] = set()

    def sort(self, record: EpisodeRecord) -> list[EpisodeRecord]:
        """Return what can be written now that `record` has ended, in the order of the ends."""
        words = _find_rejection(record)
        if words is None and not record.is_final:
            return [record]  # says nothing of the rejection
        if words is None:
            self._servers.clear()
            return [*self.release(), record]
        self._held.append((words, record))
        same = [held for said, held in self._held if said == words]
        if words in self._servers or len(same) == SAME_IN_A_ROW:
            self._servers.add(words)
            self._held = [held for held in self._held if held[0] != words]
            return [_mark_missing(each, is_servers=True) for each in same]
        too_many = len(self._held) > HELD and not self._servers
        return [self._held.pop(0)[1]] if too_many else []

    def release(self) -> list[EpisodeRecord]:
        """Return those that are held, as they ended."""
        held, self._held = self._held, []
        return [record for _, record in held]

    def void(self) -> list[EpisodeRecord]:
        """Return those that are held as infrastructure errors."""
        return [_mark_missing(record, is_servers=False) for record in self.release()]


def _find_rejection(record: EpisodeRecord) -> str | None:
    """Return the words that refused a conversation, without numbers; None where it ended otherwise.

    A conversation that outgrew the context was none; one that never fitted in was.
    """
    if record.error is None or not record.is_final:
        return None
    kind = record.error.type.partition(":")[2]
    if kind == "rejected" or (kind == "context_overflow" and record.steps == 0):
        return _ODD.sub("#", record.error.message)
    return None


def _mark_missing(record: EpisodeRecord, *, is_servers: bool) -> EpisodeRecord:
    assert record.error is not None
    why = (
        f"the same rejection ended {SAME_IN_A_ROW} conversations in a row, so it is the server's"
        if is_servers
        else "the cell ended before it was known whether every conversation is rejected"
    )
    error = EpisodeError(record.error.type, f"{why}: {record.error.message}")
    return replace(record, outcome=Outcome.INFRA_ERROR, reward=None, error=error)
