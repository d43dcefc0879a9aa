"""What is asked of a server: lengths, arrivals, limits and a seed, read from a small TOML file.

The live benchmark, the simulator and the tuner all read the same scenario. It says nothing about HTTP.
"""

import math
import random
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from fullbore.errors import UsageError, did_you_mean
from fullbore.scenario.arrival import MOST_CONCURRENCY, Arrival, ClosedLoop
from fullbore.scenario.lengths import MOST_TOKENS, Fixed, Lengths
from fullbore.scenario.prompt import Request, Segment, Session

FILES = Path(__file__).parent / "files"
PERCENTILES = ("mean", "p50", "p90", "p99")


@dataclass(frozen=True)
class Limits:
    """The TTFT and TPOT that must be kept, and the figure over all requests that they judge."""

    ttft_ms: float
    tpot_ms: float
    percentile: str = "mean"


@dataclass(frozen=True)
class Scenario:
    """A load and the limits it must keep. Its lengths were multiplied with ``scale`` (1: as published)."""

    name: str
    input: Lengths
    output: Lengths
    arrival: Arrival
    limits: Limits
    seed: int = 0
    scale: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        _check_int(f"scenario {self.name}: arrival.concurrency", self.arrival.concurrency, MOST_CONCURRENCY)
        for field in ("ttft_ms", "tpot_ms"):
            value = getattr(self.limits, field)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise UsageError(
                    f"scenario {self.name}: limits.{field} = {value!r}; expected milliseconds above 0"
                )
        if self.limits.percentile not in PERCENTILES:
            raise UsageError(
                f"scenario {self.name}: limits.percentile = {self.limits.percentile!r}; "
                f"expected one of {', '.join(PERCENTILES)}"
            )

    @property
    def input_tokens(self) -> int:
        """The mean length of a prompt, in whole tokens."""
        return round(self.input.mean)

    @property
    def output_tokens(self) -> int:
        """The mean length of an answer, in whole tokens."""
        return round(self.output.mean)

    def scaled(self, scale: Fraction) -> "Scenario":
        """The same with lengths times ``scale``, but at least 1 token in and 2 out (TPOT needs 2)."""
        return replace(
            self,
            input=self.input.scaled(scale, 1),
            output=self.output.scaled(scale, 2),
            scale=self.scale * scale,
        )

    def sessions(self, stream: str, count: int) -> Iterator[Session]:
        """``count`` conversations, the same ones for the same seed and ``stream`` (one stream for each use).

        Prompts of different streams share no prefix, so nothing of a warm-up is in a prefix cache.
        """
        for number in range(count):
            seed = f"{self.seed}/{stream}/{number}"
            chance = random.Random(f"lengths {seed}")
            prompt = Segment(seed, self.input.draw(chance))
            yield Session(number, (Request(number, (prompt,), self.output.draw(chance)),))

    def describe(self) -> str:
        """``dialog at scale 1/8: 16 tokens in, 128 out``."""
        scale = "" if self.scale == 1 else f" at scale {self.scale}"
        return f"{self.name}{scale}: {self.input.describe()} tokens in, {self.output.describe()} out"


def load_scenario(name: str) -> Scenario:
    """A scenario of this package by its name, or one of your own by its file (``*.toml``)."""
    path = Path(name) if name.endswith(".toml") else FILES / f"{name}.toml"
    if not name.endswith(".toml") and name not in scenario_names():
        raise UsageError(
            f"unknown scenario {name!r}{did_you_mean(name, scenario_names())}; "
            f"expected one of {', '.join(scenario_names())}, or a .toml file"
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the scenario file {name} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the scenario file {name} is not TOML: {error}") from error
    return _scenario(table, name)


def scenario_names() -> list[str]:
    """The scenarios that come with this package."""
    return sorted(path.stem for path in FILES.glob("*.toml"))


def _scenario(table: Mapping[str, Any], source: str) -> Scenario:
    _check_keys(source, "", table, ("name", "input_tokens", "output_tokens", "arrival", "limits"), ("seed",))
    for section, needed, optional in (
        ("arrival", ("concurrency",), ()),
        ("limits", ("ttft_ms", "tpot_ms"), ("percentile",)),
    ):
        if not isinstance(table[section], dict):
            raise UsageError(
                f"scenario {source}: {section} = {table[section]!r}; expected a table [{section}]"
            )
        _check_keys(source, f"{section}.", table[section], needed, optional)
    if not isinstance(table["name"], str) or not table["name"]:
        raise UsageError(f"scenario {source}: name = {table['name']!r}; expected a word")
    seed = table.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UsageError(f"scenario {source}: seed = {seed!r}; expected a whole number")
    return Scenario(
        name=table["name"],
        input=_lengths(f"scenario {source}: input_tokens", table["input_tokens"]),
        output=_lengths(f"scenario {source}: output_tokens", table["output_tokens"]),
        arrival=ClosedLoop(**table["arrival"]),
        limits=Limits(**table["limits"]),
        seed=seed,
    )


def _lengths(what: str, value: Any) -> Lengths:
    _check_int(what, value, MOST_TOKENS)
    return Fixed(value)


def _check_keys(
    source: str, prefix: str, table: Mapping[str, Any], needed: tuple[str, ...], optional: tuple[str, ...]
) -> None:
    for key in table:
        if key not in needed + optional:
            raise UsageError(
                f"scenario {source}: unknown {prefix}{key}{did_you_mean(key, needed + optional)}"
            )
    for key in needed:
        if key not in table:
            raise UsageError(f"scenario {source}: {prefix}{key} is missing")


def _check_int(what: str, value: Any, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UsageError(f"{what} = {value!r}; expected a whole number from 1 to {most}")
