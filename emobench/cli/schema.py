"""`emobench schema`: the JSON schema of sweep files."""

from __future__ import annotations

import argparse

from emobench.core.output import say_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print the JSON schema of sweep files; editors complete and check by it."


def run(arguments: argparse.Namespace) -> int:
    from emobench.config.reference import build_sweep_file_schema

    say_json(build_sweep_file_schema(), indent=2)
    return 0
