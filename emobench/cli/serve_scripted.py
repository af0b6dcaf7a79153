"""`emobench serve-scripted`: the same as `python -m emobench.scripted`."""

from emobench.scripted.command import add_arguments, run

__all__ = ["add_arguments", "run"]
