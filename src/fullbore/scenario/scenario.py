"""What is asked of a server: lengths, arrivals, limits and a seed, read from a small TOML file.

The live benchmark, the simulator and the tuner all read the same scenario. It says nothing about HTTP.
``docs/scenarios.md`` has the file format.
"""

import random
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from fullbore.errors import UsageError, did_you_mean
from fullbore.scenario.arrival import Arrival, ClosedLoop, OpenLoop, Replay, read_arrival
from fullbore.scenario.conversation import (
    ONE_TURN,
    PLAIN_PROMPTS,
    Conversation,
    Prompts,
    read_conversation,
    read_prompts,
)
from fullbore.scenario.fields import Table
from fullbore.scenario.length_values import read_lengths
from fullbore.scenario.lengths import Fixed, Lengths
from fullbore.scenario.prompt import Material, Request, Segment, Session
from fullbore.scenario.text import TextFile
from fullbore.scenario.trace import Trace, read_trace

FILES = Path(__file__).parent / "files"
PERCENTILES = ("mean", "p50", "p90", "p99")
FIELDS = (
    "name",
    "input_tokens",
    "output_tokens",
    "seed",
    "arrival",
    "limits",
    "prompt",
    "conversation",
    "trace",
    "scaled_by",
)


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
    input: Lengths  # of a first prompt, without what it shares with others
    output: Lengths
    arrival: Arrival
    limits: Limits
    seed: int = 0
    scale: Fraction = Fraction(1)
    prompts: Prompts = PLAIN_PROMPTS
    conversation: Conversation = ONE_TURN
    trace: Trace | None = None  # the requests, whose lengths ``input`` and ``output`` then describe

    @property
    def input_tokens(self) -> int:
        """What a mean request adds to its prompt, in whole tokens: no shared prompt, no earlier turn."""
        turns = self.conversation.turns.mean
        later = (turns - 1) * self.conversation.turn_tokens.mean
        return max(1, round((self.input.mean + later) / turns - self._repeated_tokens))

    @property
    def output_tokens(self) -> int:
        """The mean length of an answer, in whole tokens."""
        return round(self.output.mean)

    @property
    def history_tokens(self) -> int:
        """What is before that in a mean request, in whole tokens: what a prefix cache can hold.

        Where the number of turns varies, that of a conversation with the mean number.
        """
        turns, turn_tokens = self.conversation.turns.mean, self.conversation.turn_tokens.mean
        later = (turns - 1) / turns  # the share of requests that have anything before them
        earlier = later * self.input.mean + (turns - 1) / 2 * (
            self.output.mean + max(0.0, turns - 2) / turns * turn_tokens
        )
        return round(self.prompts.shared_tokens + earlier + self._repeated_tokens)

    @property
    def _repeated_tokens(self) -> float:
        return self.trace.repeated_tokens * float(self.scale) if self.trace else 0.0

    @property
    def most_tokens(self) -> int:
        """No request's prompt and answer together are longer: what the server's context must hold."""
        later = self.conversation.turns.most - 1
        first = self.prompts.shared_tokens + self.input.most + self.output.most
        return first + later * (self.conversation.turn_tokens.most + self.output.most)

    @property
    def concurrency(self) -> int | None:
        """How many are in flight in a closed loop; None in an open one, where the server decides."""
        return self.arrival.concurrency if isinstance(self.arrival, ClosedLoop) else None

    @property
    def count(self) -> int | None:
        """How many conversations there are at all; None where there is no end of them."""
        return self.trace.requests if self.trace and isinstance(self.arrival, Replay) else None

    def material(self) -> Material | None:
        """What prompts are made of, where the scenario says it. UsageError for a text that cannot be used."""
        longest = max(self.input.most, self.prompts.shared_tokens, self.conversation.turn_tokens.most)
        what = f"scenario {self.name}: prompt.text"
        return TextFile.open(self.prompts.text, longest, what) if self.prompts.text else None

    def scaled(self, scale: Fraction) -> "Scenario":
        """The same with lengths times ``scale``, but at least 1 token in and 2 out (TPOT needs 2)."""
        if scale == 1:
            return self
        if self.trace:
            return _with_lengths_of(self.trace, replace(self, scale=self.scale * scale))
        shared_tokens = self.prompts.shared_tokens and max(1, round(self.prompts.shared_tokens * scale))
        turn_tokens = self.conversation.turn_tokens.scaled(scale, 1)
        return replace(
            self,
            input=self.input.scaled(scale, 1),
            output=self.output.scaled(scale, 2),
            scale=self.scale * scale,
            prompts=replace(self.prompts, shared_tokens=shared_tokens),
            conversation=replace(self.conversation, turn_tokens=turn_tokens),
        )

    def warm_up(self, concurrency: int, output_tokens: int) -> "Scenario":
        """First prompts like this scenario's with short answers, ``concurrency`` in flight."""
        return replace(
            self,
            output=Fixed(max(1, min(self.output_tokens, output_tokens))),
            arrival=ClosedLoop(concurrency),
            conversation=ONE_TURN,
            trace=None,
        )

    def sessions(self, stream: str, count: int) -> Iterator[Session]:
        """``count`` conversations, the same ones for the same seed and ``stream`` (one stream for each use).

        Prompts of different streams share no prefix, so nothing of a warm-up is in a prefix cache. A trace
        that is replayed at its own times may end before ``count``.
        """
        seed = f"{self.seed}/{stream}"
        starts_s = None
        if isinstance(self.arrival, OpenLoop):
            starts_s = self.arrival.starts_s(random.Random(f"arrival {seed}"))
        if self.trace:
            speed = self.arrival.speed if isinstance(self.arrival, Replay) else None
            yield from self.trace.sessions(seed, count, self.scale, speed, starts_s)
            return
        request = 0
        for number in range(count):
            requests = tuple(self._requests(seed, number, request))
            request += len(requests)
            yield Session(number, requests, next(starts_s) if starts_s else None)

    def _requests(self, stream: str, session: int, first: int) -> Iterator[Request]:
        seed, talk = f"{stream}/{session}", self.conversation
        chance = random.Random(f"lengths {seed}")
        for turn in range(talk.turns.draw(chance)):
            lengths = talk.turn_tokens if turn else self.input
            prompt: tuple[Segment, ...] = (Segment(f"{seed}/{turn}" if turn else seed, lengths.draw(chance)),)
            output_tokens = self.output.draw(chance)
            think_s = talk.think_ms.draw(chance) / 1000 if turn else 0.0
            if self.prompts.shared_tokens and not turn:
                group = int(chance.random() * self.prompts.groups)
                prompt = (Segment(f"{stream}/shared {group}", self.prompts.shared_tokens), *prompt)
            yield Request(first + turn, prompt, output_tokens, think_s)

    def describe(self) -> str:
        """``dialog at scale 1/8: 16 tokens in, 128 out``, and what else there is to it."""
        scale = "" if self.scale == 1 else f" at scale {self.scale}"
        parts = [
            f"{self.name}{scale}: {self.input.describe()} tokens in, {self.output.describe()} out",
            self.prompts.describe(),
            self.conversation.describe(),
            self.trace.describe() if self.trace else "",
        ]
        return "; ".join(part for part in parts if part)

    def as_dict(self) -> dict[str, Any]:
        """As a scenario file says it, ready for JSON: ``scenario_from_dict`` makes an equal one of it."""
        lengths = {"input_tokens": self.input.as_table(), "output_tokens": self.output.as_table()}
        table: dict[str, Any] = {
            "name": self.name,
            **(lengths if self.trace is None else {}),
            "seed": self.seed,
            "scaled_by": str(self.scale),
            "arrival": self.arrival.as_table(),
            "limits": {
                "ttft_ms": self.limits.ttft_ms,
                "tpot_ms": self.limits.tpot_ms,
                "percentile": self.limits.percentile,
            },
            "prompt": self.prompts.as_table(),
            "conversation": self.conversation.as_table(),
            "trace": self.trace.as_table() if self.trace else {},
        }
        return {key: value for key, value in table.items() if value != {}}


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
    scenario = scenario_from_dict(table, name, path.parent)
    scenario.material()  # a text that cannot be used is refused now rather than at the first request
    return scenario


def scenario_names() -> list[str]:
    """The scenarios that come with this package."""
    return sorted(path.stem for path in FILES.glob("*.toml"))


def scenario_from_dict(
    values: Mapping[str, Any], source: str = "of a report", folder: Path = Path()
) -> Scenario:
    """A scenario from what its file says, or from ``as_dict``. Files in it are relative to ``folder``.

    UsageError that names ``source`` and the field.
    """
    table = Table(f"scenario {source}", values, folder=folder)
    table.refuse_others(FIELDS)
    name = table.text("name", "a word")
    trace = read_trace(table.table("trace")) if "trace" in table else None
    if trace:
        for key in ("input_tokens", "output_tokens", "conversation"):
            if key in table:
                raise UsageError(f"{table.source}: {key} beside [trace], which has its own; leave one out")
    scenario = Scenario(
        name=name,
        input=trace.input if trace else read_lengths(table, "input_tokens"),
        output=trace.output if trace else read_lengths(table, "output_tokens"),
        arrival=_arrival(table, trace),
        limits=_limits(table.table("limits")),
        seed=table.whole("seed", -(2**63), 2**63, default=0),
        scale=_scale(table),
        prompts=_prompts(table, trace),
        conversation=_conversation(table),
        trace=trace,
    )
    return _with_lengths_of(trace, scenario) if trace else scenario


def _with_lengths_of(trace: Trace, scenario: Scenario) -> Scenario:
    """A trace's own lengths at the scenario's scale: never scaled twice, which would round twice."""
    if scenario.scale == 1:
        return replace(scenario, input=trace.input, output=trace.output)
    lengths = trace.input.scaled(scenario.scale, 1), trace.output.scaled(scenario.scale, 2)
    return replace(scenario, input=lengths[0], output=lengths[1])


def _conversation(table: Table) -> Conversation:
    return read_conversation(table.table("conversation")) if "conversation" in table else ONE_TURN


def _arrival(table: Table, trace: Trace | None) -> Arrival:
    recorded = trace is not None and trace.span_s is not None
    if "arrival" not in table and recorded:
        return Replay()
    arrival = read_arrival(table.table("arrival"))
    if isinstance(arrival, Replay) and not recorded:
        raise UsageError(
            f"{table.source}: arrival.speed replays recorded times, and there are none; "
            "expected arrival.concurrency or arrival.rate"
        )
    return arrival


def _prompts(table: Table, trace: Trace | None) -> Prompts:
    if "prompt" not in table:
        return PLAIN_PROMPTS
    prompts = read_prompts(table.table("prompt"))
    if trace and prompts.shared_tokens:
        raise UsageError(
            f"{table.source}: prompt.shared_tokens beside [trace]; its hashes say what is shared"
        )
    return prompts


def _limits(table: Table) -> Limits:
    table.refuse_others(("ttft_ms", "tpot_ms", "percentile"))
    return Limits(
        ttft_ms=table.number("ttft_ms", "milliseconds"),
        tpot_ms=table.number("tpot_ms", "milliseconds"),
        percentile=table.one_of("percentile", PERCENTILES, default="mean"),
    )


def _scale(table: Table) -> Fraction:
    """``scaled_by``: what the lengths in the table were multiplied with already."""
    text = table.text("scaled_by", "a fraction such as '1/8'", default="1")
    try:
        scale = Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise table.error("scaled_by", "a fraction such as '1/8'") from error
    if scale <= 0:
        raise table.error("scaled_by", "a fraction above 0")
    return scale
