"""A report for a terminal: plain text, the verdict first."""

from __future__ import annotations

from textwrap import wrap

from emobench.probe.report import ProbeReport

_NAME, _INDENT, _WIDTH = 22, 33, 100


def show(report: ProbeReport) -> str:
    """The verdict in words, then one line a check, with what to do about each problem."""
    lines = wrap(f"{report.role}: {report.verdict}", _WIDTH, subsequent_indent="  ")
    for check in report.checks:
        head = f"  {check.result:<8} {check.name:<{_NAME - 1}} "
        lines += wrap(head + check.seen, _WIDTH, subsequent_indent=" " * _INDENT)
        if check.result in ("warning", "fatal"):
            for text in filter(None, (check.meaning, check.advice)):
                indent = " " * (_INDENT + 2)
                lines += wrap(
                    f"- {text}", _WIDTH, initial_indent=indent[2:], subsequent_indent=indent
                )
    return "\n".join(lines)
