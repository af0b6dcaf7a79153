"""YAML that remembers its lines and refuses what YAML versions read differently.

Scalars follow the part of YAML that 1.1 and 1.2 agree on. What they read differently (yes, 1e3,
0x10, dates) is an error rather than a guess; `24:00:00` is text, as Slurm means it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from emobench.core.errors import InvalidInput, Problem

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_VALUES = 100_000
MAX_DEPTH = 40

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)")
_NULL = {"", "~", "null", "Null", "NULL"}
_TRUE = {"true", "True", "TRUE"}
_FALSE = {"false", "False", "FALSE"}
_DISPUTED_BOOL = {"yes": "true", "on": "true", "no": "false", "off": "false"}
_DISPUTED = [
    (re.compile(r"[-+]?[0-9.]+[eE][-+]?[0-9]+"), "write the number out"),
    (re.compile(r"[-+]?0[0-9_]+"), "write the number without leading zeros"),
    (re.compile(r"[-+]?0[xob][0-9a-fA-F_]+"), "write the number in decimal"),
    (re.compile(r"[-+]?[0-9]+(_[0-9]+)+(\.[0-9_]*)?"), "write the number without underscores"),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), "write an ordinary number"),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?"), ""),
]
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_PLAIN_TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map", "int", "float", "bool", "null")
}


def format_key_path(path: KeyPath) -> str:
    """Return a key path as people write it.

    >>> format_key_path(("matrix", "variant", 2))
    'matrix.variant[2]'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


@dataclass(frozen=True)
class Document:
    """A YAML file's mapping, and the line of each key path in it."""

    file: str
    data: dict[str, Any]
    lines: dict[KeyPath, int] = field(repr=False)

    def find_line(self, path: KeyPath) -> int:
        """Return the 1-based line of the path, or of its closest ancestor; 0 where no file has
        lines."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1 if self.lines else 0)


def load_yaml(path: Path) -> Document:
    """Read a file whose top level is a mapping. Raises InvalidInput with every problem found."""
    file = str(path)
    text = _read_text(path, file)
    walker = _Walker(file)
    node = _compose(text, file)
    if node is None:
        raise InvalidInput(Problem("the file is empty", file=file, line=1))
    if not isinstance(node, yaml.MappingNode):
        found = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
        raise InvalidInput(
            Problem(
                f"the top level is {found}; it has to be a mapping of keys to values",
                file=file,
                line=node.start_mark.line + 1,
                hint="start the lines with 'key: value', e.g. 'trials: 4'",
            )
        )
    data = walker.read_value(node, ())
    if walker.problems:
        raise InvalidInput(walker.problems)
    return Document(file, data, walker.lines)


def _read_text(path: Path, file: str) -> str:
    try:
        if path.is_dir():
            raise InvalidInput(Problem("is a folder; a YAML file is wanted", file=file))
        if not path.exists():
            raise InvalidInput(Problem("no such file", file=file))
        if not path.is_file():
            raise InvalidInput(Problem("is not a regular file", file=file))
        raw = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(Problem(f"cannot be read: {reason}", file=file)) from error
    if raw is None:
        raise InvalidInput(Problem(f"larger than {MAX_BYTES:,} bytes", file=file))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InvalidInput(
            Problem("not UTF-8 text", file=file, line=line, hint="save the file as UTF-8")
        ) from error


def _compose(text: str, file: str) -> yaml.Node | None:
    advice = "check the indentation, the colons and the quotes around this line"
    try:
        # BaseLoader makes nodes without guessing types and without running tags.
        return yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = f"U+{ord(text[error.position]):04X}" if error.position < len(text) else ""
        message = f"a control character {character} in the file"
        problem = Problem(message, file=file, line=line, hint="delete it")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = error.problem or error.context or "unreadable"
        line = mark.line + 1 if mark else 0
        if "'\\t'" in said:
            said, advice = "a tab where YAML wants spaces", "indent with spaces only"
        elif "single document" in str(error.context):
            said, advice = "a second document starts here", "remove the '---' line"
        elif "undefined alias" in said:
            advice = "put text that starts with * in quotes"
        elif "mapping values are not allowed" in said:
            said = "a second ': ' in one value"
            advice = "put text with a colon and a space in quotes, or check the indentation"
        problem = Problem(f"not valid YAML: {said}", file=file, line=line, hint=advice)
    except RecursionError:
        problem = Problem("nested too deeply", file=file)
    except (ValueError, OverflowError) as error:
        # PyYAML lets these through, e.g. for the escape "\UFFFFFFFF".
        problem = Problem(f"not valid YAML: {error}", file=file, hint="check the \\ escapes")
    raise InvalidInput(problem)


class _Walker:
    """Turns nodes into values; collects lines and problems."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[Problem] = []
        self.values = 0

    def refuse(self, node: yaml.Node, path: KeyPath, message: str, hint: str = "") -> None:
        line = node.start_mark.line + 1
        self.problems.append(
            Problem(message, self.file, line, key=format_key_path(path), hint=hint)
        )

    def read_value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.values += 1
        # Aliases can make a short file stand for millions of values, or for itself.
        if self.values > MAX_VALUES or len(path) > MAX_DEPTH:
            self.refuse(node, path[:3], "too many values, or nested too deeply (aliases?)")
            raise InvalidInput(self.problems)
        self.lines.setdefault(path, node.start_mark.line + 1)
        if node.tag not in _PLAIN_TAGS:
            tag = str(node.tag).replace("tag:yaml.org,2002:", "!!")
            self.refuse(node, path, f"the tag {tag} is not supported", "remove it")
            return None
        if isinstance(node, yaml.MappingNode):
            return self.read_mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read_value(item, (*path, i)) for i, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self.read_scalar(node, path)

    def read_mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.refuse(key_node, path, "a key has to be plain text")
                continue
            key = key_node.value
            if key == "<<":
                self.refuse(key_node, path, "merge keys (<<) are not supported", "write them out")
            elif not key or _CONTROL.search(key):
                self.refuse(key_node, path, f"{key!r} is no usable key")
            elif key in data:
                first = self.lines[*path, key]
                self.refuse(
                    key_node, (*path, key), f"given twice, first on line {first}", "keep one"
                )
            else:
                self.lines[*path, key] = line
                data[key] = self.read_value(value_node, (*path, key))
        return data

    def read_scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        text: str = node.value
        if found := _CONTROL.search(text):
            self.refuse(node, path, f"a control character U+{ord(found[0]):04X} in a value")
            return None
        if node.style is not None:
            return text
        if text in _NULL:
            return None
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        if _INT.fullmatch(text) or _FLOAT.fullmatch(text):
            if len(text) > 18:
                self.refuse(node, path, f"the number {text[:18]}... is too long", "put in quotes")
                return None
            return float(text) if "." in text else int(text)
        advice = None
        if text.lower() in _DISPUTED_BOOL:
            advice = f"write {_DISPUTED_BOOL[text.lower()]}"
        else:
            advice = next((say for form, say in _DISPUTED if form.fullmatch(text)), None)
        if advice is not None:
            advice = f"{advice}, or put it in quotes" if advice else "put it in quotes"
            message = f"{text[:40]} means different things to different YAML readers"
            self.refuse(node, path, message, f"{advice} if text is meant")
            return None
        return text
