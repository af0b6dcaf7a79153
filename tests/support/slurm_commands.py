"""Slurm's commands as scripts that answer what a test says, where no cluster is needed."""

from __future__ import annotations

import os
from pathlib import Path

COMMANDS = ("sbatch", "squeue", "sacct", "sacctmgr", "scontrol", "scancel", "sinfo", "srun")


class SlurmCommands:
    """A folder of commands. Each notes how it was called, and runs the answer that a test gave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in COMMANDS:
            command = folder / name
            command.write_text(
                f'#!/bin/sh\ncd "{folder}"\nprintf "%s\\n" "{name} $*" >> called\n'
                f"[ ! -e {name}.answer ] || . ./{name}.answer\n"
            )
            command.chmod(0o755)
        self.answer("sbatch", 'echo >> ids; echo "Submitted batch job $((100 + $(wc -l < ids)))"')

    @property
    def environment(self) -> dict[str, str]:
        """What has to be set for these commands to be found first."""
        return {"PATH": f"{self.folder}:{os.environ['PATH']}"}

    def answer(self, name: str, script: str) -> None:
        """Let a command run these lines of sh."""
        waiting = self.folder / f"{name}.new"
        waiting.write_text(script)
        waiting.rename(self.folder / f"{name}.answer")

    def say(self, name: str, *lines: str) -> None:
        """Let a command print these lines."""
        self.answer(name, "\n".join(["cat <<'EOF'", *lines, "EOF"]))

    def calls(self, name: str) -> list[str]:
        """The arguments of each call of a command, in order."""
        noted = self.folder / "called"
        lines = noted.read_text().splitlines() if noted.exists() else []
        return [line.partition(" ")[2] for line in lines if line.split(" ")[0] == name]
