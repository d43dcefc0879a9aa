"""Peers whose every step and server is a few lines of this test's own."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.peer import Command, Peer, Setting, Step

SERVER = Path(__file__).parent / "fake_server.py"


def python_step(name: str, code: str, *makes: Path, timeout_s: float = 60.0) -> Step:
    return Step(name, [sys.executable, "-c", code], makes, timeout_s)


@dataclass(frozen=True)
class FakePeer(Peer):
    """Installs by ``code``; serves with ``arguments`` given to the fake server."""

    name: str = "fake"
    code: str = "pass"
    arguments: Sequence[str] = ()
    weights: str = "bf16"
    version: str = "1"
    ready: str = "/ready"

    def steps(self, setting: Setting) -> Iterator[Step]:
        yield python_step(f"{self.name} install", self.code)

    def command(self, setting: Setting, port: int) -> Command:
        return Command([sys.executable, str(SERVER), "--port", str(port), *self.arguments])
