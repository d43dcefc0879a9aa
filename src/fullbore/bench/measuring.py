"""One scenario on one server, at one load after the other."""

import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from rich.console import Console

from fullbore.bench import identity
from fullbore.bench.client import COMPLETIONS, Client, Target
from fullbore.bench.load import Live, Load
from fullbore.bench.progress import progress
from fullbore.bench.report import result_of
from fullbore.bench.workers import drive_across, processes_for
from fullbore.errors import FullboreError, UsageError
from fullbore.results.identity import Machine
from fullbore.results.result import Result
from fullbore.scenario.arrival import Arrival, ClosedLoop, OpenLoop
from fullbore.scenario.prompt import RandomTokens, RandomWords
from fullbore.scenario.protocol import stream_of, usual_count
from fullbore.scenario.scenario import Scenario

WARM_UP_TOKENS = 8
WARM_UP_OPEN = 4  # requests before an open loop, which says nothing of how many run at once


@dataclass(frozen=True)
class Bench:
    """One scenario against one server.

    arrivals: the loads, one after the other; none: the scenario's own. requests: conversations at each load;
    0: four a slot and at least eight, a minute of an open loop, all of a trace that is replayed. seconds: no
    request is sent after them; 0: no end. processes: of this client; 0: as many as the concurrency needs.
    """

    url: str
    scenario: Scenario
    arrivals: tuple[Arrival, ...] = ()
    requests: int = 0
    seconds: float = 0.0
    model: str = ""
    api_key: str = ""
    vocab_size: int = 0
    timeout_s: float = 600.0
    endpoint: str = COMPLETIONS
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    processes: int = 0


async def measure(bench: Bench, keep: Callable[[Result], None], screen: Console) -> bool:
    """Measure every load of ``bench``, giving each result to ``keep`` as soon as it is there.

    False when the user interrupted; what was measured until then has been kept. Progress goes to ``screen``.
    """
    async with measuring(bench, screen) as session:
        for arrival in bench.arrivals or (bench.scenario.arrival,):
            result, interrupted = await session.run(arrival, bench.requests)
            if result:
                keep(result)
            if interrupted:
                return False
    return True


@asynccontextmanager
async def measuring(bench: Bench, screen: Console) -> AsyncIterator["Measuring"]:
    """Connected to the server, which has been asked what it is. Raises FullboreError where that fails, and
    UsageError where the scenario does not fit the model."""
    async with Client(bench.url, bench.api_key, bench.timeout_s, bench.endpoint, bench.extra_body) as client:
        target = await client.discover(bench.model, bench.vocab_size)
        _check_fits(bench.scenario, target)
        weights = f" ({target.weights})" if target.weights else ""
        scenario = f"{bench.scenario.describe()}; seed {bench.scenario.seed}"
        screen.print(f"{scenario}; {target.model}{weights} at {target.url}", markup=False)
        told = await identity.ask(client)
        if emulated := identity.server_of(target, told).emulated:
            screen.print(emulated, markup=False, style="bold red")
        yield Measuring(bench, client, target, screen, told)


class Measuring:
    """Loads on a server that is there. Each has prompts of its own, which no cache has seen."""

    def __init__(
        self, bench: Bench, client: Client, target: Target, screen: Console, told: Mapping[str, Any]
    ) -> None:
        """``told``: what the server says of itself."""
        self.target = target
        self._told = told
        self._bench, self._client, self._screen = bench, client, screen
        self._material = bench.scenario.material() or target.material
        self._runs = 0

    async def run(self, arrival: Arrival, requests: int = 0) -> tuple[Result | None, bool]:
        """The result of one load (None: nothing was sent), and whether the user interrupted it.

        ``requests``: see ``Bench``. Raises FullboreError when the warm-up finds that nothing works.
        """
        scenario = replace(self._bench.scenario, arrival=arrival)
        count = requests or usual_count(scenario)
        stream = stream_of(arrival, self._runs)
        self._runs += 1
        slots = scenario.concurrency
        warm = scenario.warm_up(min(slots or WARM_UP_OPEN, count), WARM_UP_TOKENS)
        warmed = await self._drive(warm, warm.concurrency or 1, f"warm-up {stream}", warming=True)
        if warmed.interrupted:
            return None, True
        _check_warm(warmed, self.target)
        machine = Machine.here()
        load = await self._drive(scenario, count, stream)
        if not load.records:
            return None, load.interrupted
        result = result_of(
            scenario,
            slots,
            self.target,
            load,
            rate_s=arrival.rate_s if isinstance(arrival, OpenLoop) else None,
            told=self._told,
            machine=machine,
            prompts=self._prompts(scenario),
            processes=self._bench.processes or processes_for(slots),
        )
        return result, load.interrupted

    def _prompts(self, scenario: Scenario) -> str:
        """What they are made of: what must be text cannot be token ids."""
        text = self._client.settings.chat or scenario.conversation.turns.most > 1
        return (
            RandomWords().name if text and isinstance(self._material, RandomTokens) else self._material.name
        )

    async def _drive(self, scenario: Scenario, count: int, stream: str, warming: bool = False) -> Load:
        live, seconds = Live(), 0.0 if warming else self._bench.seconds
        bar = progress(
            self._screen,
            f"{'warm-up ' if warming else ''}{scenario.name}, {scenario.arrival.describe()}",
            count * scenario.conversation.turns.mean,
            scenario.output.mean,
            live,
            seconds,
            transient=warming,
        )
        async with bar:
            return await drive_across(
                self._bench.processes,
                self._client,
                self.target,
                scenario.sessions(stream, count),
                scenario.concurrency,
                material=self._material,
                ramp_s=scenario.arrival.ramp_s if isinstance(scenario.arrival, ClosedLoop) else 0.0,
                seconds=seconds,
                live=live,
            )


def _check_warm(load: Load, target: Target) -> None:
    if load.records and not any(record.ok for record in load.records):
        first = load.records[0]
        raise FullboreError(
            f"every one of {len(load.records)} warm-up requests to {target.url} failed; the first with "
            f"{first.outcome}{': ' + first.error if first.error else ''}"
        )


def _check_fits(scenario: Scenario, target: Target) -> None:
    need = scenario.most_tokens
    if target.max_model_len and need > target.max_model_len:
        fitting = Fraction(target.max_model_len, need) * scenario.scale
        raise UsageError(
            f"{scenario.describe()} is up to {need} tokens, but {target.model} takes at most "
            f"{target.max_model_len}; use for instance --scale 1/{math.ceil(1 / fitting)}"
        )
