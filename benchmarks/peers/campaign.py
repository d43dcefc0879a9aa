"""The campaign: every chosen peer under every load, what is there already left out."""

import asyncio
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.peers import results as files
from benchmarks.peers.machine import Load, Use, peak_rss_mib
from benchmarks.peers.peer import Command, Peer, Setting
from benchmarks.peers.processes import Server, ServerError, free_port, running
from benchmarks.peers.results import Failure, Measurement, Point, Results
from benchmarks.peers.steps import Workshop, tail
from fullbore.bench.measuring import Bench, measure
from fullbore.errors import FullboreError
from fullbore.results.result import Result
from fullbore.scenario.arrival import ClosedLoop
from fullbore.scenario.lengths import Fixed
from fullbore.scenario.scenario import Scenario, load_scenario


@dataclass(frozen=True)
class Plan:
    """What is to be measured, and how patiently."""

    peers: Sequence[Peer]
    points: Sequence[Point]
    setting: Setting
    rounds: int  # each peer is measured once in a round, so that drift of the machine hits all alike
    start_timeout_s: float
    silence_s: float  # a stream that brings nothing for so long has failed
    point_s: float  # no request is sent after so long
    seed: int


class PointError(FullboreError):
    """A load that the server did not carry as asked."""


class Campaign:
    """Keeps ``results`` and the file at ``path`` up to date after every point."""

    def __init__(self, plan: Plan, results: Results, path: Path, screen: Console) -> None:
        self._plan, self.results, self._path, self._screen = plan, results, path, screen
        self._workshop = Workshop(plan.setting.home, screen.print)

    def run(self) -> None:
        """Everything; a peer's failure is noted and the next peer follows. KeyboardInterrupt passes."""
        self.results.forget_failures(peer.name for peer in self._plan.peers)
        able = [peer for peer in self._plan.peers if self._prepare(peer)]
        for round_ in range(self._plan.rounds):
            for peer in able:
                self._measure(peer, round_)

    def _prepare(self, peer: Peer) -> bool:
        """Whether the peer is installed and has its checkpoint, now or since earlier."""
        return self._tried(peer, "install", lambda: self._workshop.do(peer.steps(self._plan.setting)))

    def _measure(self, peer: Peer, round_: int) -> None:
        """The points of one round. A server that fell over is started again for the next point."""
        todo = [point for point in self._plan.points if self.results.count(peer.name, point) <= round_]
        while todo:
            before = len(todo)
            self._tried(peer, f"serve for {todo[0].describe()}", lambda: self._serve(peer, todo))
            if len(todo) == before:
                return  # it did not even start: it would not for the other points

    def _serve(self, peer: Peer, todo: list[Point]) -> None:
        """Start the server and take points off ``todo`` until none is left or the server is gone."""
        port = free_port()
        command = peer.command(self._plan.setting, port)
        log = self._plan.setting.home / "logs" / f"serve-{peer.name.replace(' ', '-')}.log"
        self._screen.print(f"{peer.name}: starting")
        with running(command, port, log) as server:
            try:
                startup_s = server.wait_ready(peer.ready, self._plan.start_timeout_s)
            except ServerError as error:
                raise ServerError(f"{error}; {tail(log)}") from error
            while todo and not server.ended:
                point = todo.pop(0)
                self._tried(
                    peer,
                    f"measure {point.describe()}",
                    partial(self._point, peer, command, startup_s, server, point),
                )

    def _point(self, peer: Peer, command: Command, startup_s: float, server: Server, point: Point) -> None:
        """Measure one point and keep it. Raises KeyboardInterrupt when the user ended it."""
        result, load, peak_rss_mib = self._load(server, point)
        self.results.measurements.append(
            Measurement(
                peer=peer.name,
                weights=peer.weights,
                version=peer.version,
                point=point,
                figures=result.figures,
                load=load,
                peak_rss_mib=round(peak_rss_mib, 1),
                startup_s=round(startup_s, 1),
                command=list(command.argv),
                env=dict(command.env),
                measured=files.now(),
            )
        )
        files.write(self._path, self.results)

    def _load(self, server: Server, point: Point) -> tuple[Result, Load, float]:
        """What the client saw, what was taken of the machine meanwhile, and the server's memory in MiB."""
        kept: list[Result] = []
        bench = Bench(
            url=server.url,
            scenario=_scenario(point, self._plan.seed),
            arrivals=(ClosedLoop(point.concurrency),),
            requests=point.requests,
            seconds=self._plan.point_s,
            vocab_size=self._plan.setting.vocab_size,
            timeout_s=self._plan.silence_s,
        )
        pid = server.process.pid
        before = Use.of(pid, time.monotonic())
        try:
            if not asyncio.run(measure(bench, kept.append, self._screen)):
                raise KeyboardInterrupt
            after, peak = Use.of(pid, time.monotonic()), peak_rss_mib(pid)
            _check(kept[0], point)
        except FullboreError as error:
            if server.ends_within(1.0):
                code = server.process.returncode
                raise PointError(f"the server ended with {code}: {error}; {tail(server.log)}") from error
            raise
        return kept[0], Load.between(before, after), peak

    def _tried(self, peer: Peer, doing: str, work: Callable[[], None]) -> bool:
        """False, and a note of it, where ``work`` failed in a way that a peer or the system may fail in."""
        try:
            work()
        except (FullboreError, OSError) as error:
            self._screen.print(f"[red]{peer.name}: {doing}: failed[/red]")
            self._screen.print(f"{error}", markup=False)
            self.results.failures.append(Failure(peer.name, doing, str(error)))
            files.write(self._path, self.results)
            return False
        return True


def _scenario(point: Point, seed: int) -> Scenario:
    """The point's load. Its seed is its own: two points must not share the beginnings of prompts."""
    scenario = load_scenario(point.scenario)
    own = zlib.crc32(f"{seed} {point.describe()}".encode())
    return replace(scenario, input=Fixed(point.input_tokens), output=Fixed(point.output_tokens), seed=own)


def _check(result: Result, point: Point) -> None:
    """A figure is only worth comparing when the server did all that was asked."""
    got = result.figures
    if got.requests_failed or got.requests_ok < point.requests:
        first = next((each for each in result.records if not each.ok), None)
        why = f": {first.outcome} {first.error}".rstrip() if first else f" ({result.ended_early})"
        raise PointError(f"{got.requests_ok} of {point.requests} requests ended well{why}")
    for what, asked, given in (
        ("prompts", got.asked_input_tokens, got.input_tokens),
        ("answers", got.asked_output_tokens, got.output_tokens),
    ):
        if asked is None or abs(given - asked) > 0.02 * asked:
            raise PointError(f"{what} of {given} tokens where {asked} were asked: not the load to compare")
