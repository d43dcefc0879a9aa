"""When conversations begin: a closed loop keeps a number in flight, an open loop keeps to a schedule."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from fullbore.errors import UsageError, did_you_mean
from fullbore.scenario.fields import Table

MOST_CONCURRENCY = 100_000
PROCESSES = ("poisson", "constant", "gamma", "burst")


@dataclass(frozen=True)
class ClosedLoop:
    """``concurrency`` conversations are always in flight: each that ends is replaced at once.

    Over the first ``ramp_s`` seconds they begin one after the other instead of together.
    """

    concurrency: int
    ramp_s: float = 0.0

    def describe(self) -> str:
        ramp = f", the first ones spread over {self.ramp_s:g} s" if self.ramp_s else ""
        return f"{self.concurrency} in flight{ramp}"

    def as_table(self) -> dict[str, Any]:
        return {"concurrency": self.concurrency} | ({"ramp_seconds": self.ramp_s} if self.ramp_s else {})


class Process(Protocol):
    """How arrivals follow each other, at a mean rate of 1."""

    def gap(self, number: int, chance: random.Random) -> float:
        """From arrival ``number`` to the next; 1 on average."""
        ...

    def describe(self) -> str:
        """As on the command line: ``gamma:0.5``."""
        ...

    def as_table(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Poisson:
    """Independent users: an arrival says nothing about the next."""

    def gap(self, number: int, chance: random.Random) -> float:
        return -math.log(1 - chance.random())

    def describe(self) -> str:
        return "poisson"

    def as_table(self) -> dict[str, Any]:
        return {"process": "poisson"}


@dataclass(frozen=True)
class Constant:
    """A metronome."""

    def gap(self, number: int, chance: random.Random) -> float:
        return 1.0

    def describe(self) -> str:
        return "constant"

    def as_table(self) -> dict[str, Any]:
        return {"process": "constant"}


@dataclass(frozen=True)
class Gamma:
    """Gaps with a gamma distribution: ``shape`` 1 is Poisson, less is burstier, more is more regular.

    It is what ``vllm bench serve`` calls burstiness. A gap's variance is 1 / ``shape``.
    """

    shape: float

    def gap(self, number: int, chance: random.Random) -> float:
        return chance.gammavariate(self.shape, 1 / self.shape)

    def describe(self) -> str:
        return f"gamma:{self.shape:g}"

    def as_table(self) -> dict[str, Any]:
        return {"process": "gamma", "shape": self.shape}


@dataclass(frozen=True)
class Burst:
    """``size`` at the same instant, then nothing until the next such burst; bursts are evenly spaced."""

    size: int

    def gap(self, number: int, chance: random.Random) -> float:
        return 0.0 if (number + 1) % self.size else float(self.size)

    def describe(self) -> str:
        return f"burst:{self.size}"

    def as_table(self) -> dict[str, Any]:
        return {"process": "burst", "size": self.size}


@dataclass(frozen=True)
class OpenLoop:
    """``rate_s`` conversations begin each second, whether or not earlier ones have ended.

    Over the first ``ramp_s`` seconds the rate goes in a straight line from ``from_rate_s`` to ``rate_s``.
    """

    rate_s: float
    process: Process = Poisson()
    from_rate_s: float = 0.0
    ramp_s: float = 0.0

    def starts_s(self, chance: random.Random) -> Iterator[float]:
        """When each begins, in seconds from the first, which begins at 0. It has no end.

        The process runs at rate 1 and its time is bent so that the expected number of arrivals until each
        moment is the rate's integral. For Poisson that is the exact non-homogeneous process.
        """
        expected, number = 0.0, 0
        while True:
            yield self.when_s(expected)
            expected += self.process.gap(number, chance)
            number += 1

    def when_s(self, expected: float) -> float:
        """The time until which ``expected`` arrivals are expected: the inverse of the rate's integral."""
        in_ramp = (self.from_rate_s + self.rate_s) / 2 * self.ramp_s
        if expected >= in_ramp:
            return self.ramp_s + (expected - in_ramp) / self.rate_s
        # from * t + slope/2 * t^2 = expected, in the form that does not cancel
        slope = (self.rate_s - self.from_rate_s) / self.ramp_s
        root = math.sqrt(max(0.0, self.from_rate_s**2 + 2 * slope * expected))
        return 2 * expected / (self.from_rate_s + root) if expected else 0.0

    def describe(self) -> str:
        ramp = f"{self.from_rate_s:g} to {self.rate_s:g}" if self.ramp_s else f"{self.rate_s:g}"
        over = f" over {self.ramp_s:g} s" if self.ramp_s else ""
        return f"{ramp} a second{over}, {self.process.describe()}"

    def as_table(self) -> dict[str, Any]:
        ramp = {"from_rate": self.from_rate_s, "ramp_seconds": self.ramp_s} if self.ramp_s else {}
        return {"rate": self.rate_s, **self.process.as_table(), **ramp}


@dataclass(frozen=True)
class Replay:
    """At the times that a trace recorded, ``speed`` times as fast."""

    speed: float = 1.0

    def describe(self) -> str:
        return "as recorded" if self.speed == 1 else f"as recorded, {self.speed:g} times as fast"

    def as_table(self) -> dict[str, Any]:
        return {"speed": self.speed}


Arrival = ClosedLoop | OpenLoop | Replay


def read_arrival(table: Table) -> Arrival:
    """``[arrival]``: its ``concurrency``, ``rate`` or ``speed`` says which kind it is."""
    kinds = [key for key in _FIELDS if key in table]
    if len(kinds) != 1:
        table.refuse_others({name for names in _FIELDS.values() for name in names})
        raise UsageError(
            f"{table.source}: [{table.path.rstrip('.')}] has {' and '.join(kinds) or 'none of its kinds'}; "
            "expected one of concurrency (a closed loop), rate (an open loop) or speed (a trace as recorded)"
        )
    kind = kinds[0]
    table.refuse_others(_FIELDS[kind])
    if kind == "concurrency":
        ramp_s = table.number_from("ramp_seconds", "seconds", default=0.0)
        return ClosedLoop(table.whole("concurrency", 1, MOST_CONCURRENCY), ramp_s)
    if kind == "speed":
        return Replay(table.number("speed", "a factor"))
    rate_s = table.number("rate", "conversations a second")
    return OpenLoop(rate_s, _process(table), *_ramp(table))


_FIELDS = {
    "concurrency": ("concurrency", "ramp_seconds"),
    "rate": ("rate", "process", "shape", "size", "from_rate", "ramp_seconds"),
    "speed": ("speed",),
}


def _process(table: Table) -> Process:
    kind = table.one_of("process", PROCESSES, default="poisson")
    for key, owner in (("shape", "gamma"), ("size", "burst")):
        if key in table and kind != owner:
            raise table.error(key, f'it only with process = "{owner}", here it is "{kind}"')
    if kind == "gamma":
        return Gamma(table.number("shape", "a number"))
    if kind == "burst":
        return Burst(table.whole("size", 1, MOST_CONCURRENCY))
    return Constant() if kind == "constant" else Poisson()


def _ramp(table: Table) -> tuple[float, float]:
    if ("from_rate" in table) != ("ramp_seconds" in table):
        given, other = ("from_rate", "ramp_seconds")[:: 1 if "from_rate" in table else -1]
        raise table.error(given, f"{other} beside it")
    from_rate_s = table.number_from("from_rate", "conversations a second", default=0.0)
    ramp_s = table.number("ramp_seconds", "seconds", default=0.0)
    return from_rate_s, ramp_s


def parse_open_loop(rate: str, arrival: str = "poisson") -> OpenLoop:
    """``--rate 2.5`` or, from one rate to another over seconds, ``--rate 0.5-8:60``; with
    ``--arrival poisson|constant|gamma:SHAPE|burst:SIZE``. UsageError that says what was expected."""
    return OpenLoop(*_rates(rate)[:1], parse_process(arrival), *_rates(rate)[1:])


def parse_process(text: str) -> Process:
    """``poisson``, ``constant``, ``gamma:0.5`` or ``burst:8``."""
    kind, colon, argument = text.partition(":")
    if kind not in PROCESSES:
        raise UsageError(
            f"--arrival {text}: unknown{did_you_mean(kind, PROCESSES)}; "
            "expected poisson, constant, gamma:SHAPE or burst:SIZE"
        )
    key = {"gamma": "shape", "burst": "size"}.get(kind)
    if bool(colon) != bool(key):
        wanted = f"{kind}:{key.upper()}, such as {kind}:2" if key else kind
        raise UsageError(f"--arrival {text}: expected {wanted}")
    try:
        value = int(argument) if kind == "burst" else float(argument) if key else 0.0
    except ValueError as error:
        raise UsageError(f"--arrival {text}: {argument!r} is not a number; expected {kind}:2") from error
    return _process(Table(f"--arrival {text}", {"process": kind} | ({key: value} if key else {})))


def _rates(text: str) -> tuple[float, float, float]:
    """(rate, first rate, seconds of ramp) of ``--rate``."""
    span, colon, seconds = text.partition(":")
    first, dash, last = span.partition("-")
    try:
        if bool(colon) != bool(dash):
            raise ValueError
        values = {"rate": float(last if dash else first)}
        if dash:
            values |= {"from_rate": float(first), "ramp_seconds": float(seconds)}
    except ValueError as error:
        raise UsageError(
            f"--rate {text}: expected conversations a second such as 2.5, or a ramp FROM-TO:SECONDS such as "
            "0.5-8:60"
        ) from error
    table = Table(f"--rate {text}", values)
    return table.number("rate", "conversations a second"), *_ramp(table)
