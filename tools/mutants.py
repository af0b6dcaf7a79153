"""Change the deciding modules in one spot at a time and count the changes that the tests notice.

mutmut makes the mutants and runs the tests (`[tool.mutmut]` in pyproject.toml says of what and with
which); arguments are names of mutants, as 'emobench.analysis.stats.means*', which are run again
even where their results stand in mutants/. `--results` only prints those. Mutants that cannot
change behaviour are left out of the count: those listed in docs/development.md, and those that
`_is_wording` knows. Exits with 1 where less than 90 % of the others are killed.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import ndiff
from pathlib import Path
from textwrap import dedent

MUTANTS = Path("mutants")
PAGE = Path("docs/development.md")
HEADING = "### Mutants that change nothing"
WANTED = 0.9
NOT_RUN = None
SURVIVED = (0, 5, 33)
"""Exit codes of pytest: passed, no test found, no test meets the function. Others are kills."""
LOGGERS = {"debug", "info", "warning", "error", "exception", "print"}
MATCHERS = {"compile", "search", "match", "fullmatch", "startswith", "endswith", "split", "get"}


@dataclass(frozen=True)
class Mutant:
    name: str
    module: str
    function: str
    change: tuple[str, ...]
    """The new lines, or where lines only went, these with a leading '- '."""
    wording: bool
    exit_code: int | None


def main(arguments: Sequence[str]) -> int:
    if list(arguments) != ["--results"]:
        MUTANTS.mkdir(exist_ok=True)
        log = MUTANTS / "mutmut.log"
        print(f"Running mutmut (hours for all modules); its output is in {log}", flush=True)
        with log.open("w") as output:
            mutmut = [str(Path(sys.executable).with_name("mutmut")), "run", *arguments]
            code = subprocess.run(mutmut, stdout=output, stderr=subprocess.STDOUT).returncode
        if code:
            print(f"mutmut ended with {code}: see {log}", file=sys.stderr)
            return code
    return _report(list(_read()), _listed())


def _report(mutants: Sequence[Mutant], listed: Sequence[tuple[str, str]]) -> int:
    counts: dict[str, Counter[str]] = {}
    lasting: list[Mutant] = []
    used: set[tuple[str, str]] = set()
    for mutant in mutants:
        rows = {row for row in listed if _matches(mutant, row)}
        if mutant.exit_code is NOT_RUN:
            kind = "not run"
        elif mutant.exit_code not in SURVIVED:
            kind = "killed"
        elif mutant.wording or rows:
            kind = "equivalent"
            used |= rows
        else:
            kind = "survived"
            lasting.append(mutant)
        for name in (mutant.module, "all"):
            counts.setdefault(name, Counter())[kind] += 1
    for mutant in lasting:
        print(f"{mutant.name}\n    " + "\n    ".join(line.strip() for line in mutant.change))
    if not counts.get("all", Counter())["not run"]:
        for function, piece in listed:
            if (function, piece) not in used:
                print(f"listed, though no survivor has it: {function}: {piece}")
    print(f"{'killed':>8}{'survived':>10}{'equivalent':>12}{'not run':>9}{'share':>8}")
    for name, found in sorted(counts.items(), key=lambda item: (item[0] == "all", item[0])):
        columns = (found["killed"], found["survived"], found["equivalent"], found["not run"])
        print("{:8}{:10}{:12}{:9}".format(*columns) + f"{_share(found):8.1%}  {name}")
    return 0 if counts and _share(counts["all"]) >= WANTED else 1


def _share(found: Counter[str]) -> float:
    run = found["killed"] + found["survived"]
    return found["killed"] / run if run else 0.0


def _read() -> Iterator[Mutant]:
    """Read the mutants and their results from mutmut's files beside the mutated modules."""
    for meta in sorted(MUTANTS.glob("emobench/**/*.py.meta")):
        source = meta.with_suffix("")
        codes = json.loads(meta.read_text())["exit_code_by_key"]
        spans = json.loads(source.with_suffix(".py.spans").read_text())["spans"]
        lines = source.read_text().splitlines()
        for name, code in codes.items():
            module, _, key = name.rpartition(".")
            original = f"{key.partition('__mutmut_')[0]}__mutmut_orig"
            old, new = (
                [line.replace(each, "f", 1) for line in lines[spans[each][0] - 1 : spans[each][1]]]
                for each in (original, key)
            )
            delta = [line for line in ndiff(old, new) if line[0] in "+-"]
            added = [line[2:] for line in delta if line[0] == "+" and re.search(r"\w", line)]
            change = tuple(added or delta)
            function = key.partition("__mutmut_")[0].removeprefix("x").strip("ǁ_")
            module = module.removeprefix("emobench.")
            yield Mutant(
                name, module, function.replace("ǁ", "."), change, _is_wording(old, new), code
            )


def _listed() -> list[tuple[str, str]]:
    """Return (module.function, piece of a changed line) of each mutant in the page's table."""
    rows = PAGE.read_text().partition(HEADING)[2].partition("\n#")[0].splitlines()
    found = []
    for row in rows:
        cells = re.split(r"(?<!\\)\|", row)
        if len(cells) == 5:
            functions, pieces = (re.findall(r"`([^`]+)`", cell) for cell in cells[1:3])
            found += [(f, piece.replace("\\|", "|")) for f in functions for piece in pieces]
    return found


def _matches(mutant: Mutant, row: tuple[str, str]) -> bool:
    function = _bare(f"{mutant.module}.{mutant.function}")
    return function == _bare(row[0]) and any(row[1] in line for line in mutant.change)


def _bare(name: str) -> str:
    """Return a dotted name without the underscores that a part begins or ends with."""
    return ".".join(part.strip("_") for part in name.split("."))


def _is_wording(old: Sequence[str], new: Sequence[str]) -> bool:
    """Whether only words for people changed, a hint for mypy, or a check on ourselves.

    These are: the text of an error or of a log entry; another string with a blank in it, unless
    something is compared with it or looked up by it; the type of a `cast`; `strict` of a zip; the
    encoding of a file, which is UTF-8 by default where this runs.
    """
    before, after, above = _difference(_parse(old), _parse(new))
    keyword = next((node.arg for node in (before, *above) if isinstance(node, ast.keyword)), "")
    if keyword in ("strict", "encoding"):
        return True
    lost = _lost_argument(before, after)
    if isinstance(lost, ast.keyword):
        return lost.arg in ("strict", "encoding")
    calls = [node for node in above if isinstance(node, ast.Call)]
    callee = _name(calls[0].func) if calls else ""
    if callee == "cast" and before is calls[0].args[0]:
        return True
    if not any(_is_words(node) for node in (before, *above)):
        return False
    told = callee in LOGGERS or any(isinstance(node, ast.Raise) for node in above)
    if isinstance(before, ast.JoinedStr | ast.Constant) and told:
        return True
    compared = any(isinstance(node, ast.Compare | ast.Subscript) for node in above)
    return (
        isinstance(after, ast.Constant | ast.JoinedStr)
        and _is_words(after)
        and not (compared or callee in MATCHERS)
    )


def _parse(lines: Sequence[str]) -> ast.AST:
    return ast.parse(dedent("\n".join(lines))).body[0]


def _difference(
    old: ast.AST, new: ast.AST, above: tuple[ast.AST, ...] = ()
) -> tuple[ast.AST, ast.AST, tuple[ast.AST, ...]]:
    """Return the smallest parts that differ, and what stands above the old one, innermost first."""
    if type(old) is type(new):
        sides = [list(ast.iter_child_nodes(each)) for each in (old, new)]
        if len(sides[0]) == len(sides[1]):
            pairs = zip(*sides, strict=True)
            differing = [(a, b) for a, b in pairs if ast.dump(a) != ast.dump(b)]
            if len(differing) == 1:
                return _difference(*differing[0], (old, *above))
    return old, new, above


def _lost_argument(old: ast.AST, new: ast.AST) -> ast.AST | None:
    if not (isinstance(old, ast.Call) and isinstance(new, ast.Call)):
        return None
    kept = {ast.dump(each) for each in (*new.args, *new.keywords)}
    return next((e for e in (*old.args, *old.keywords) if ast.dump(e) not in kept), None)


def _is_words(node: ast.AST) -> bool:
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return any(
        isinstance(part, ast.Constant) and isinstance(part.value, str) and " " in part.value
        for part in parts
    )


def _name(function: ast.AST) -> str:
    return getattr(function, "attr", getattr(function, "id", ""))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
