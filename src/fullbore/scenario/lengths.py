"""How long prompts and answers are: distributions of whole numbers.

Most are of tokens; turns of a conversation and milliseconds of thinking are drawn from the same ones.
"""

import math
import random
from abc import ABC, abstractmethod
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from statistics import NormalDist
from typing import Any, Protocol

MOST_TOKENS = 10_000_000  # in one request; above it a length is a slip of the keyboard


class Lengths(Protocol):
    """A distribution of whole numbers."""

    @property
    def mean(self) -> float:
        """Of what is drawn, bounds and rounding included: exact, not estimated."""
        ...

    @property
    def most(self) -> int:
        """No draw is larger."""
        ...

    def draw(self, chance: random.Random) -> int: ...

    def scaled(self, scale: Fraction, least: int) -> "Lengths":
        """The same shape with every number times ``scale``, but at least ``least``."""
        ...

    def describe(self, unit: int = 1) -> str:
        """In a few words; numbers are shown divided by ``unit`` (1000: milliseconds as seconds)."""
        ...

    def as_table(self, unit: int = 1) -> Any:
        """The value in a scenario file that means this distribution."""
        ...


@dataclass(frozen=True)
class Fixed:
    """Always ``tokens``."""

    tokens: int

    @property
    def mean(self) -> float:
        return float(self.tokens)

    @property
    def most(self) -> int:
        return self.tokens

    def draw(self, chance: random.Random) -> int:
        return self.tokens

    def scaled(self, scale: Fraction, least: int) -> "Fixed":
        return Fixed(max(least, round(self.tokens * scale)))

    def describe(self, unit: int = 1) -> str:
        return f"{_per(self.tokens, unit):.10g}"

    def as_table(self, unit: int = 1) -> Any:
        return _per(self.tokens, unit)


@dataclass(frozen=True)
class Uniform:
    """Every whole number from ``low`` to ``high``, both included, equally often."""

    low: int
    high: int

    @property
    def mean(self) -> float:
        return (self.low + self.high) / 2

    @property
    def most(self) -> int:
        return self.high

    def draw(self, chance: random.Random) -> int:
        # Not randint: of random.Random only random() is promised to be the same in every Python.
        return self.low + int(chance.random() * (self.high - self.low + 1))

    def scaled(self, scale: Fraction, least: int) -> "Uniform":
        return Uniform(max(least, round(self.low * scale)), max(least, round(self.high * scale)))

    def describe(self, unit: int = 1) -> str:
        return f"{_per(self.low, unit):.10g}-{_per(self.high, unit):.10g}"

    def as_table(self, unit: int = 1) -> Any:
        return {"distribution": "uniform", "low": _per(self.low, unit), "high": _per(self.high, unit)}


@dataclass(frozen=True)
class Choice:
    """One of ``values``, as often as its weight says. A measured histogram is one of these."""

    values: tuple[int, ...]
    weights: tuple[float, ...]

    @cached_property
    def mean(self) -> float:
        weighted = zip(self.values, self.weights, strict=True)
        return math.fsum(value * weight for value, weight in weighted) / math.fsum(self.weights)

    @property
    def most(self) -> int:
        return max(self.values)

    @cached_property
    def _up_to(self) -> tuple[float, ...]:
        return tuple(accumulate(self.weights))

    def draw(self, chance: random.Random) -> int:
        place = bisect(self._up_to, chance.random() * self._up_to[-1])
        return self.values[min(place, len(self.values) - 1)]

    def scaled(self, scale: Fraction, least: int) -> "Choice":
        return Choice(tuple(max(least, round(value * scale)) for value in self.values), self.weights)

    def describe(self, unit: int = 1) -> str:
        if len(self.values) <= 4:
            return " or ".join(f"{_per(value, unit):.10g}" for value in self.values)
        bounds = f"{_per(min(self.values), unit):.10g}-{_per(self.most, unit):.10g}"
        return f"{bounds} (mean {self.mean / unit:.6g})"

    def as_table(self, unit: int = 1) -> Any:
        return {
            "distribution": "choice",
            "values": [_per(value, unit) for value in self.values],
            "weights": list(self.weights),
        }


@dataclass(frozen=True)
class Bounded(ABC):
    """A bell curve cut off at ``low`` and ``high`` (both included) and rounded to whole numbers.

    ``curve_mean`` and ``curve_stdev`` are those of the curve before it is cut; ``mean`` is of what is drawn.
    """

    curve_mean: float
    curve_stdev: float
    low: int
    high: int

    @property
    @abstractmethod
    def _kind(self) -> str: ...

    @property
    @abstractmethod
    def _curve(self) -> tuple[NormalDist, Callable[[float], float], Callable[[float], float]]:
        """A normal curve, the way to it from the numbers drawn, and the way back."""

    def _below(self, number: float) -> float:
        """The share of the whole curve that is below ``number``."""
        normal, to_normal, _ = self._curve
        return normal.cdf(to_normal(number))

    @cached_property
    def _ends(self) -> tuple[float, float]:
        """The shares of the curve below what rounds to ``low``, and up to what rounds to ``high``."""
        return self._below(self.low - 0.5), self._below(self.high + 0.5)

    @property
    def _nearest(self) -> int | None:
        """What is always drawn where next to nothing of the curve is between the bounds."""
        begin, end = self._ends
        if end - begin > 1e-9:
            return None
        return self.low if self.curve_mean < self.low else self.high

    @cached_property
    def mean(self) -> float:
        if self._nearest is not None:
            return float(self._nearest)
        begin, end = self._ends
        # Every number counts once for each of low + 1, low + 2, ... that it reaches.
        reached = math.fsum(end - self._below(number - 0.5) for number in range(self.low + 1, self.high + 1))
        return self.low + reached / (end - begin)

    @property
    def most(self) -> int:
        return self.high

    def draw(self, chance: random.Random) -> int:
        begin, end = self._ends
        share = begin + (end - begin) * chance.random()
        if self._nearest is not None:
            return self._nearest
        if not 0 < share < 1:  # infinitely far out on the curve
            return self.low if share <= 0 else self.high
        normal, _, from_normal = self._curve
        return min(max(round(from_normal(normal.inv_cdf(share))), self.low), self.high)

    def scaled(self, scale: Fraction, least: int) -> "Bounded":
        low, high = max(least, round(self.low * scale)), max(least, round(self.high * scale))
        # Rounding and ``least`` may push a bound past the mean, which a scenario file has between them.
        curve_mean = min(max(float(self.curve_mean * scale), float(low)), float(high))
        return type(self)(curve_mean, float(self.curve_stdev * scale), low, high)

    def describe(self, unit: int = 1) -> str:
        bounds = f"{_per(self.low, unit):.10g}-{_per(self.high, unit):.10g}"
        return f"{bounds} ({self._kind}, mean {self.mean / unit:.6g})"

    def as_table(self, unit: int = 1) -> Any:
        return {
            "distribution": self._kind,
            "mean": self.curve_mean / unit,
            "stdev": self.curve_stdev / unit,
            "low": _per(self.low, unit),
            "high": _per(self.high, unit),
        }


class Normal(Bounded):
    """Symmetric about its mean."""

    @property
    def _kind(self) -> str:
        return "normal"

    @cached_property
    def _curve(self) -> tuple[NormalDist, Callable[[float], float], Callable[[float], float]]:
        return NormalDist(self.curve_mean, self.curve_stdev), float, float


class LogNormal(Bounded):
    """Many short ones and few very long ones, as prompts and answers of people mostly are."""

    @property
    def _kind(self) -> str:
        return "lognormal"

    @cached_property
    def _curve(self) -> tuple[NormalDist, Callable[[float], float], Callable[[float], float]]:
        variance = math.log1p((self.curve_stdev / self.curve_mean) ** 2)
        normal = NormalDist(math.log(self.curve_mean) - variance / 2, math.sqrt(variance))
        return normal, lambda number: math.log(number) if number > 0 else -math.inf, math.exp


def _per(number: int, unit: int) -> int | float:
    """``number / unit``, whole where it is."""
    return number // unit if number % unit == 0 else number / unit
