"""Conversations in a row that the same rejection ended: more than a few are the server's doing.

A server that refuses what one conversation holds is data. If it says the same of one conversation
after the other, it would say so of all: then they are missing, and are run again.
"""

from __future__ import annotations

import re
from dataclasses import replace

from emobench.core.outcomes import Outcome
from emobench.store.episodes import EpisodeError, EpisodeRecord

SAME_IN_A_ROW = 3
"""Conversations that the same rejection ends, one after the other, before it counts as the
server's."""
_ODD = re.compile(r"(?<!\S)\S*\d\S*")
"""Numbers and ids, which differ between two answers that say the same."""


class RejectionRow:
    """Holds back rejected conversations until it is known whose doing their end was.

    What is on disk as a result stays one, so that nothing may be written too early.
    """

    def __init__(self) -> None:
        self._held: list[EpisodeRecord] = []
        self._words: str | None = None
        self._is_servers = False

    def sort(self, record: EpisodeRecord) -> list[EpisodeRecord]:
        """Return what can be written now that `record` has ended, in the order of the ends."""
        words = _rejection(record)
        if words is None and not record.is_final:
            return [record]  # says nothing of the rejection
        ready = []
        if words != self._words:
            ready = self.release()
            self._words, self._is_servers = words, False
        if words is None:
            return [*ready, record]
        self._held.append(record)
        self._is_servers = self._is_servers or len(self._held) == SAME_IN_A_ROW
        return [*ready, *self.void()] if self._is_servers else ready

    def release(self) -> list[EpisodeRecord]:
        """Return those that are held, as they ended."""
        held, self._held = self._held, []
        return held

    def void(self) -> list[EpisodeRecord]:
        """Return those that are held as infrastructure errors."""
        return [_missing(record, self._is_servers) for record in self.release()]


def _rejection(record: EpisodeRecord) -> str | None:
    """Return the words that refused a conversation, without numbers; None where it ended otherwise.

    A conversation that outgrew the context was none; one that never fitted in was.
    """
    if record.error is None or not record.is_final:
        return None
    kind = record.error.type.partition(":")[2]
    if kind == "rejected" or (kind == "context_overflow" and record.steps == 0):
        return _ODD.sub("#", record.error.message)
    return None


def _missing(record: EpisodeRecord, is_servers: bool) -> EpisodeRecord:
    assert record.error is not None
    why = (
        f"the same rejection ended {SAME_IN_A_ROW} conversations in a row, so it is the server's"
        if is_servers
        else "the cell ended before it was known whether every conversation is rejected"
    )
    error = EpisodeError(record.error.type, f"{why}: {record.error.message}")
    return replace(record, outcome=Outcome.INFRA_ERROR, reward=None, error=error)
