"""What was measured, in one JSON file that a later run goes on with."""

import os
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks.peers.machine import Load
from fullbore.errors import UsageError
from fullbore.hardware.cpu import cpu_model
from fullbore.hardware.limits import usable_cores
from fullbore.scenario.metrics import Figures

SCHEMA = "fullbore.peers/1"  # the number changes when a field changes its meaning or goes away


class Point(msgspec.Struct, frozen=True):
    """One load. Two measurements of equal points may be compared, whoever was measured."""

    model: str
    scenario: str
    input_tokens: int
    output_tokens: int
    concurrency: int
    requests: int

    def describe(self) -> str:
        return f"{self.scenario} {self.input_tokens}/{self.output_tokens} x{self.concurrency}"


class Measurement(msgspec.Struct, frozen=True):
    """One peer under one load."""

    peer: str
    weights: str
    version: str
    point: Point
    figures: Figures
    load: Load
    peak_rss_mib: float
    startup_s: float
    command: list[str]
    env: dict[str, str]
    measured: str  # when, UTC


class Failure(msgspec.Struct, frozen=True):
    """Why something of a peer was not measured."""

    peer: str
    doing: str
    error: str


class Results(msgspec.Struct):
    """The content of the file."""

    schema: str = SCHEMA
    cpu: str = ""
    cores: int = 0
    measurements: list[Measurement] = []
    failures: list[Failure] = []

    def count(self, peer: str, point: Point) -> int:
        """How often this was measured already."""
        return sum(each.peer == peer and each.point == point for each in self.measurements)

    def forget_failures(self, peers: Iterable[str]) -> None:
        """They are tried again."""
        names = set(peers)
        self.failures = [failure for failure in self.failures if failure.peer not in names]

    def forget(self, peers: Iterable[str], points: Iterable[Point]) -> None:
        """Measure these anew."""
        names, loads = set(peers), set(points)
        self.measurements = [
            each for each in self.measurements if each.peer not in names or each.point not in loads
        ]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def read(path: Path) -> Results:
    """What ``path`` holds; empty results where there is no such file."""
    if not path.exists():
        return Results(cpu=cpu_model(), cores=usable_cores())
    try:
        results = msgspec.json.decode(path.read_bytes(), type=Results)
    except msgspec.DecodeError as error:
        raise UsageError(f"--json {path} holds no results of this harness ({error}); name another") from error
    if results.schema != SCHEMA:
        raise UsageError(
            f"--json {path} has the schema {results.schema}, expected {SCHEMA}; name another file"
        )
    here = (cpu_model(), usable_cores())
    if (results.cpu, results.cores) != here:
        raise UsageError(
            f"--json {path} was measured on {results.cores} cores of {results.cpu}, this is {here[1]} of "
            f"{here[0]}; name another file"
        )
    return results


def write(path: Path, results: Results) -> None:
    """Replace the file as a whole: whoever reads it, or kills us, finds the old results or the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
