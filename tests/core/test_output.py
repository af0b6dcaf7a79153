"""One printer for all that emobench prints, and words that are safe to paste into a shell."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emobench.core.output import make_visible, overwrite, quote_words, say, say_json

PACKAGE = Path(__file__).parents[2] / "emobench"
BARE = {
    "core/output.py": "the printer",
    "cli/completion.py": "a script for a shell, in which nothing comes from outside",
    "serving/engine.py": "what the engine prints is its own, in the job's log as everywhere",
}
"""Modules that print without the printer, and why."""
HOSTILE = "\x1b]0;owned\x07\x1b[2Ja\rb\x9bc\u202ed\x7f\u2066"


def bare_prints(file: Path) -> Iterator[str]:
    """What writes to a terminal without `say`: print, a stream's write, a console, a logger."""
    for node in ast.walk(ast.parse(file.read_text())):
        words = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""
        streams = ("sys.stdout.", "sys.stderr.", "sys.__stdout__.", "sys.__stderr__.")
        if words in ("print", "logging") or (
            words.startswith(streams)
            and words.rpartition(".")[2] in ("write", "writelines", "buffer")
        ):
            yield f"{node.lineno}: {words}"  # type: ignore[attr-defined]
        if isinstance(node, ast.ImportFrom | ast.Import):
            names = {alias.name for alias in node.names}
            module = getattr(node, "module", None)
            if names & {"logging", "pprint"} or (module == "rich" and names & {"print"}):
                yield f"{node.lineno}: {ast.unparse(node)}"
            if module == "rich.console" and "Console" in names and file.name != "terminal.py":
                yield f"{node.lineno}: {ast.unparse(node)}"


def test_all_that_is_printed_goes_through_the_printer() -> None:
    found = {
        str(file.relative_to(PACKAGE)): lines
        for file in sorted(PACKAGE.rglob("*.py"))
        if (lines := list(bare_prints(file)))
    }
    assert {name: lines for name, lines in found.items() if name not in BARE} == {}
    assert found.keys() == BARE.keys()


def test_what_is_said_cannot_act(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    say_json({HOSTILE: [HOSTILE, Path("x")]})
    overwrite(HOSTILE)
    out, err = capsys.readouterr()
    text, data = out.splitlines()
    assert (
        text
        == make_visible(HOSTILE)
        == "\\x1b]0;owned\\x07\\x1b[2Ja\\x0db\\x9bc\\u202ed\\x7f\\u2066"
    )
    assert data.isascii() and data.isprintable()
    assert json.loads(data) == {HOSTILE: [HOSTILE, "x"]}
    assert err == "\r" + make_visible(HOSTILE)


def test_a_traceback_cannot_act_either() -> None:
    code = (
        "from emobench.core.output import print_tracebacks_visibly\n"
        "from threading import Thread\n"
        "def fail(): raise ValueError('\\x1b[2J')\n"
        "print_tracebacks_visibly()\n"
        "thread = Thread(target=fail); thread.start(); thread.join()\n"
        "fail()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("ValueError: \\x1b[2J\n") == 2
    assert "\x1b" not in done.stderr


paths = st.binary(max_size=30).map(
    lambda name: name.replace(b"\0", b"").decode(errors="surrogateescape")
)


@settings(max_examples=25)
@given(
    st.lists(st.one_of(st.sampled_from([HOSTILE, "a'b\\\n", "$(x) `x`", ""]), paths), max_size=5)
)
def test_words_for_a_shell_are_read_as_they_are_and_cannot_act(words: list[str]) -> None:
    line = quote_words(words)
    assert make_visible(line) == line and "\n" not in line
    script = f"printf '%s\\0' end {line}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=60, check=True)
    assert done.stdout == b"".join(
        word.encode(errors="surrogateescape") + b"\0" for word in ["end", *words]
    )
