"""How long prompts and answers are: a distribution of token counts."""

import random
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

MOST_TOKENS = 10_000_000  # in one request; above it a length is a slip of the keyboard


class Lengths(Protocol):
    """A distribution of token counts, each at least 1."""

    @property
    def mean(self) -> float: ...

    @property
    def most(self) -> int:
        """No count is larger."""
        ...

    def draw(self, chance: random.Random) -> int: ...

    def scaled(self, scale: Fraction, least: int) -> "Lengths":
        """The same shape with every count times ``scale``, but at least ``least``."""
        ...

    def describe(self) -> str: ...


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

    def describe(self) -> str:
        return str(self.tokens)
