"""Run every measurement in a process of its own and print what it saw."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

MEASUREMENTS = (
    "run_against_stock",
    "in_flight",
    "environment",
    "startup",
    "store_bytes",
    "expand_and_render",
    "findings",
    "timed_server",
    "accelerator_hours",
)


def main() -> int:
    print(
        f"machine: {os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"
    )
    chosen = sys.argv[1:] or MEASUREMENTS
    return max(
        subprocess.run([sys.executable, "-m", f"performance.{name}"], check=False).returncode
        for name in chosen
    )


if __name__ == "__main__":
    sys.exit(main())
