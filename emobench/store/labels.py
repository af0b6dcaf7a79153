"""`judge.jsonl`: the judge's answers, one appended line each, by content.

The rules of the episode store: one writer at a time, what was written is on disk, and any prefix
of the file can be gone on with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from emobench.core.errors import EmobenchError
from emobench.core.files import dump_json, parse_json
from emobench.core.gates import JudgeLabel
from emobench.store.appending import LineStore, read_stored_lines

SCHEMA_VERSION = 1
LABELS: tuple[JudgeLabel, ...] = get_args(JudgeLabel)
NEUTRAL, *_EMOTIONS = LABELS
EMOTIONS = tuple(_EMOTIONS)
MAX_INTENSITY = 3
Form = Literal["strict", "lenient"]


@dataclass(frozen=True)
class Label:
    """An answer of the judge, as it was given."""

    emotion: str
    intensity: int
    form: Form = "strict"
    """lenient: the object stood among other words, or there was none and the words were clear."""

    @property
    def shown(self) -> str:
        """The emotion that counts: one of intensity 0 is none."""
        return self.emotion if self.intensity > 0 else NEUTRAL


class JudgeBusy(EmobenchError):
    """Another process is writing the judge's answers."""

    exit_code = 2


@dataclass(frozen=True)
class Answer:
    """One answer of one model to one turn."""

    key: str
    """SHA-256 of prompt, turn and model."""
    model: str
    label: Label | None
    """None where the answer could not be read: it would be the same again."""
    said: str
    """Its words."""

    def to_json(self) -> dict[str, Any]:
        label = self.label
        return {
            "schema": SCHEMA_VERSION,
            "key": self.key,
            "model": self.model,
            "emotion": label.emotion if label else None,
            "intensity": label.intensity if label else None,
            "form": label.form if label else "unreadable",
            "said": self.said[:500],
        }


def read_answers(path: Path) -> dict[str, Answer]:
    """Return the answers by key; a torn or damaged line is left out. Raises OSError on a bad
    disk."""
    try:
        return _read(path)[0]
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _read(path: Path) -> tuple[dict[str, Answer], int]:
    """Return the answers, and the length of the file up to its last whole line."""
    answers: dict[str, Answer] = {}
    whole = 0
    for line, offset in read_stored_lines(path):
        if not line.endswith(b"\n"):
            break
        whole = offset + len(line)
        answer = _parse_answer(parse_json(line))
        if answer is not None:
            answers.setdefault(answer.key, answer)
    return answers, whole


def _parse_answer(data: object) -> Answer | None:
    if not isinstance(data, Mapping) or data.get("schema") != SCHEMA_VERSION:
        return None
    key, model, form = data.get("key"), data.get("model"), data.get("form")
    if not isinstance(key, str) or not isinstance(model, str):
        return None
    said = str(data.get("said") or "")
    if form == "unreadable":
        return Answer(key, model, None, said)
    emotion, intensity = data.get("emotion"), data.get("intensity")
    if emotion not in LABELS or type(intensity) is not int or not 0 <= intensity <= MAX_INTENSITY:
        return None
    label = Label(str(emotion), intensity, "strict" if form == "strict" else "lenient")
    return Answer(key, model, label, said)


class AnswerStore(LineStore):
    """Appends answers under an exclusive lock. Raises JudgeBusy, and OSError where the disk says
    no; what was there before stays."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, lock=path)
        self.answers: dict[str, Answer] = {}

    def append(self, answers: Iterable[Answer]) -> None:
        """Write answers; when this returns they are on disk."""
        new = list(answers)
        self._write(dump_json(answer.to_json()) for answer in new)
        for answer in new:
            self.answers.setdefault(answer.key, answer)

    def _make_busy_error(self) -> JudgeBusy:
        return JudgeBusy(
            f"{self._path}: another process is asking the judge about this run; wait for it"
        )

    def _load(self) -> int:
        self.answers, whole = _read(self._path)
        return whole
