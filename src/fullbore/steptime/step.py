"""What a step is made of, and what it costs: the two values that pass in and out of this room."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

# What a step's time is spent on. Each operator's time is counted under what bounds it.
EXPERTS = "expert weights"
WEIGHTS = "other weights"
CACHE = "KV cache"
ARITHMETIC = "arithmetic"
ACTIVATIONS = "activations"
COLLECTIVES = "collectives"
LAUNCHES = "kernel launches"
HOST = "host"
KINDS = (EXPERTS, WEIGHTS, CACHE, ARITHMETIC, ACTIVATIONS, COLLECTIVES, LAUNCHES, HOST)

Z80 = 1.2815515655446004  # the normal quantile that leaves a tenth above it


class Step(msgspec.Struct, frozen=True):
    """One forward pass over the whole server, in counts. A struct, as a simulation makes millions of them.

    decodes: sequences that get their next token. context: cached tokens of all of them together.
    prefill_tokens: new prompt tokens. prefill_pairs: (query, key) pairs of those, causal.
    sampled: rows whose logits are wanted, decodes included. chunks: prompts that the new tokens belong to;
    0 where only their sum is known.
    """

    decodes: int = 0
    context: float = 0.0
    prefill_tokens: int = 0
    prefill_pairs: float = 0.0
    sampled: int = 0
    chunks: int = 0

    @classmethod
    def of(cls, contexts: Iterable[int] = (), chunks: Iterable[tuple[int, int]] = ()) -> "Step":
        """From the context of each decode and the (new tokens, tokens before them) of each prompt's chunk."""
        decoding, prompts = list(contexts), list(chunks)
        return cls(
            decodes=len(decoding),
            context=float(sum(decoding)),
            prefill_tokens=sum(new for new, _ in prompts),
            prefill_pairs=sum(pairs(new, before) for new, before in prompts),
            sampled=len(decoding) + len(prompts),
            chunks=len(prompts),
        )


def pairs(new: int, before: int) -> float:
    """(query, key) pairs of ``new`` tokens that follow ``before`` others: each sees itself too."""
    return new * before + new * (new + 1) / 2


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, and the range that holds the truth in 80 of 100 cases (a tenth lies on either side)."""

    mean: float
    p10: float
    p90: float

    @classmethod
    def spread(cls, value: float, deviation: float) -> "Interval":
        """``value`` with a standard deviation of its logarithm."""
        wide = math.exp(Z80 * deviation)
        return cls(value, value / wide, value * wide)

    def as_dict(self) -> dict[str, float]:
        return {"mean": self.mean, "p10": self.p10, "p90": self.p90}


@dataclass(frozen=True, slots=True)
class StepCost:
    """The time of a step in seconds, and the kinds of operators that it is the sum of."""

    time_s: Interval
    terms_s: Mapping[str, float]

    @property
    def limited_by(self) -> str:
        """The kind that takes the largest part."""
        return max(self.terms_s, key=lambda kind: self.terms_s[kind])
