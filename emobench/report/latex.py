"""Tables as LaTeX with booktabs, figures as includes: pieces to \\input into a paper."""

from __future__ import annotations

import re
from collections.abc import Sequence

from emobench.report.blocks import Cell, Table
from emobench.report.drawing import Figure

PREAMBLE = "% Needs \\usepackage{booktabs}"
LONG = 45
"""Rows beyond which a table breaks over pages (longtable)."""
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",
    "]": "{]}",
    "\u2212": r"$-$",
    "\u2013": "--",
    "\u2014": "---",
    "\u00d7": r"$\times$",
    "\u2020": r"\textsuperscript{\textdagger}",
    "\u2026": r"\ldots{}",
    "\u2018": "`",
    "\u2019": "'",
    "\u201c": "``",
    "\u201d": "''",
    "\u00a0": "~",
}
"""Square brackets too: behind a row's end they would be its optional argument."""
_UNKNOWN = "?"


def escape(text: str) -> str:
    """Return any text as LaTeX that prints it. What pdflatex has no glyph for becomes '?'.

    >>> escape("50 % of a_b & c")
    '50 \\\\% of a\\\\_b \\\\& c'
    """
    return "".join(map(_escape_char, re.sub(r"\s+", " ", text)))


def _escape_char(char: str) -> str:
    found = _SPECIAL.get(char)
    if found is not None:
        return found
    # Latin letters with accents are in every engine's default input encoding.
    known = (char.isascii() and char.isprintable()) or "\u00a1" <= char <= "\u017f"
    return char if known else _UNKNOWN


def format_table(block: Table) -> str:
    """Return a table environment; a longtable where it has many rows."""
    columns = "".join("r" if head.numeric and not block.prose else "l" for head in block.head)
    if block.prose:
        width = f"{0.8 / max(len(block.head) - 1, 1):.2f}"
        columns = "l" + f"p{{{width}\\textwidth}}" * (len(block.head) - 1)
    head = " & ".join(escape(each.text) for each in block.head) + r" \\"
    rows = [" & ".join(_format_cell(cell) for cell in row) + r" \\" for row in block.rows]
    caption = f"\\caption{{{escape(block.caption)}}}\\label{{tab:{_format_label(block.name)}}}"
    notes = [f"\\par\\smallskip{{\\footnotesize {escape(note)}}}" for note in block.notes]
    if len(block.rows) > LONG:
        lines = [
            f"{PREAMBLE} and \\usepackage{{longtable}}",
            f"\\begin{{longtable}}{{@{{}}{columns}@{{}}}}",
            f"{caption} \\\\",
            r"\toprule",
            head,
            r"\midrule",
            r"\endhead",
            r"\bottomrule",
            r"\endfoot",
            *rows,
            r"\end{longtable}",
            *notes,
        ]
    else:
        lines = [
            PREAMBLE,
            r"\begin{table}[tbp]",
            r"\centering\small",
            caption,
            f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"\toprule",
            head,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            *notes,
            r"\end{table}",
        ]
    return "\n".join(lines) + "\n"


def format_figure(block: Figure) -> str:
    """Return a figure environment that includes the PDF of the same name."""
    caption = escape(block.caption or block.title)
    return "\n".join(
        [
            r"\begin{figure}[tbp]",
            r"\centering",
            f"\\includegraphics[width=\\linewidth]{{{block.name}.pdf}}",
            f"\\caption{{{caption}}}\\label{{fig:{_format_label(block.name)}}}",
            r"\end{figure}",
            "",
        ]
    )


def format_document(tables: Sequence[str], figures: Sequence[Figure], title: str) -> str:
    """Return a document of everything, to look at and to copy from."""
    return "\n".join(
        [
            r"\documentclass{article}",
            r"\usepackage[T1]{fontenc}",
            r"\usepackage[utf8]{inputenc}",
            r"\usepackage{textcomp,booktabs,longtable,graphicx,pdflscape}",
            r"\usepackage[margin=2cm]{geometry}",
            r"\graphicspath{{figures/}}",
            f"\\title{{{escape(title)}}}",
            r"\begin{document}",
            r"\maketitle",
            r"\begin{landscape}",
            *(f"\\input{{tables/{name}.tex}}\n\\clearpage" for name in tables),
            *(format_figure(each) for each in figures),
            r"\end{landscape}",
            r"\end{document}",
            "",
        ]
    )


def _format_cell(cell: Cell) -> str:
    text = escape(cell.text)
    if cell.state == "strong":
        text = f"\\textbf{{{text}}}"
    if cell.mark:
        text += escape(cell.mark)
    return f"{text} {escape(cell.detail)}" if cell.detail else text


def _format_label(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", name)
