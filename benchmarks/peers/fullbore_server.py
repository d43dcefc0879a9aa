"""This project, as it is installed in the interpreter that runs the harness."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.peer import Command, Peer, Setting, Step
from fullbore import __version__

CLASSES = {"fp8_block": "8-bit", "int8": "8-bit", "bf16": "bf16", "int4": "4-bit"}


@dataclass(frozen=True)
class Fullbore(Peer):
    """``format``: fp8_block and bf16 as the checkpoint holds them; the others converted at load."""

    format: str
    ready = "/ready"

    @property
    def name(self) -> str:
        return f"fullbore {self.format}"

    @property
    def weights(self) -> str:
        return CLASSES[self.format]

    @property
    def version(self) -> str:
        return f"{__version__}{_commit()}"

    def steps(self, setting: Setting) -> Iterator[Step]:
        yield setting.make_checkpoint(self._stored)

    def command(self, setting: Setting, port: int) -> Command:
        argv = [sys.executable, "-m", "fullbore", "serve", str(setting.checkpoint(self._stored))]
        argv += ["--port", str(port), "--threads", str(setting.threads)]
        argv += ["--max-num-seqs", str(setting.slots), "--max-model-len", str(setting.context)]
        if self.format not in ("fp8_block", "bf16"):
            argv += ["--weights", self.format]
        return Command(argv)

    @property
    def _stored(self) -> str:
        return "bf16" if self.format == "bf16" else "fp8"


def _commit() -> str:
    """`` abc1234``, with a + where files were changed since; "" outside of a repository."""
    described = subprocess.run(
        ("git", "describe", "--always", "--dirty=+", "--exclude=*"),
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    return f" {described.stdout.strip()}" if described.returncode == 0 else ""
