from __future__ import annotations

import os
from pathlib import Path

import pytest

from emobench.config.yaml_lines import MAX_BYTES, format_key_path, load_yaml
from emobench.core.errors import InvalidInput


def refused(file: Path) -> str:
    with pytest.raises(InvalidInput) as caught:
        load_yaml(file)
    return str(caught.value)


def refused_text(folder: Path, text: str | bytes) -> str:
    file = folder / "x.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    message = refused(file)
    assert message.startswith(str(file))
    return message.removeprefix(str(file))


def test_values_keep_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("a: 1\nb:\n  c: [x,\n    y]\n  d:\n    - 1.5\n    - true\n")
    document = load_yaml(file)
    assert document.data == {"a": 1, "b": {"c": ["x", "y"], "d": [1.5, True]}}
    assert document.find_line(("b", "c", 1)) == 4
    assert document.find_line(("b", "d", 1)) == 7
    assert document.find_line(("b", "missing", "deeper")) == 2
    assert format_key_path(("b", "d", 1)) == "b.d[1]"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ":1: the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("- a\n- b\n", ":1: the top level is a list"),
        ("just text\n", ":1: the top level is a single value"),
        ("a: 1\nb: 2\na: 3\n", ":3: a: given twice, first on line 1"),
        ("a:\n\tb: 1\n", ":2: not valid YAML: a tab"),
        ("a: [1, 2\nb: 3\n", "not valid YAML"),
        ("a: b: c\n", ":1: not valid YAML: a second ': ' in one value"),
        ("a: 1\n---\nb: 1\n", ":2: not valid YAML: a second document"),
        ("a: *b\n", ":1: not valid YAML: found undefined alias"),
        ("a: 1\nb: yes\n", ":2: b: yes means different things"),
        ("a: off\n", "write false, or put it in quotes"),
        ("a: 2026-11-01\n", ":1: a: 2026-11-01 means"),
        ("a: 1e3\n", "write the number out"),
        ("a: 010\n", "without leading zeros"),
        ("a: 0x10\n", "in decimal"),
        ("a: 1_000\n", "without underscores"),
        ("a: .nan\n", "an ordinary number"),
        ("a: " + "9" * 5000 + "\n", "too long"),
        ("a: !!python/object:os.system x\n", "the tag !!python/object:os.system"),
        ("a: &x [*x]\n", "nested too deeply"),
        ("a: " + "[" * 5000 + "\n", "nested too deeply"),
        ("? [a]\n: 1\n", "a key has to be plain text"),
        ("a: {<<: {b: 1}}\n", "merge keys"),
        ('a: "\\0"\n', "a control character U+0000"),
        ('a: "\\ud800"\n', "a control character U+D800"),
        ('a: "\\UFFFFFFFF"\n', "not valid YAML"),
        (b"a: 1\nb: \xff\n", ":2: not UTF-8"),
        ("a: 1\n".encode("utf-16"), ":1: not UTF-8"),
        (b"a: 1\nb: \x00\n", ":2: a control character U+0000"),
    ],
)
def test_bad_files_are_named_with_a_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert said in refused_text(tmp_path, text)


def test_a_bomb_of_aliases_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]" for i in range(1, 12)]
    assert "too many values" in refused_text(tmp_path, "\n".join(lines))


def test_several_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    message = refused_text(tmp_path, "a: yes\nb: 1\nb: 2\nc: 1e3\n")
    assert [f":{line}: " in message for line in (1, 3, 4)] == [True] * 3


def test_anchors_quotes_and_times_read_as_meant(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("\ufeffa: &a {t: 24:00:00, q: 'yes', n: ~, u: früh}\nb: *a\n", "utf-8")
    data = load_yaml(file).data
    assert data["a"] == {"t": "24:00:00", "q": "yes", "n": None, "u": "früh"} == data["b"]


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.yaml")
    assert "is a folder" in refused(tmp_path)
    assert "not a regular file" in refused(Path("/dev/null"))
    assert "cannot be read" in refused(tmp_path / ("x" * 300))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "not a regular file" in refused(pipe)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    assert "larger than" in refused(large)
