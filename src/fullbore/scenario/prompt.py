"""What a load is made of: segments of prompts, requests, and the conversations that they belong to.

The live benchmark renders segments as tokens or text; a simulator needs only their names and lengths.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Segment:
    """A run of prompt tokens. Equal segments have equal content, and different seeds share no prefix."""

    seed: str
    tokens: int


@dataclass(frozen=True)
class Request:
    """One request. ``prompt``: what it adds to its conversation so far, for a first turn the whole prompt.

    ``think_s``: the pause before it, counted from the end of the answer before.
    """

    number: int
    prompt: tuple[Segment, ...]
    output_tokens: int
    think_s: float = 0.0

    @property
    def input_tokens(self) -> int:
        """Tokens that this request adds; the history that goes before them is not counted."""
        return sum(segment.tokens for segment in self.prompt)


@dataclass(frozen=True)
class Session:
    """A conversation: each request follows the answer to the one before. Mostly there is one request.

    ``start_s``: when it begins, in seconds from the start of the load; None in a closed loop, where it
    begins as soon as a place is free.
    """

    number: int
    requests: tuple[Request, ...]
    start_s: float | None = None


class Material(Protocol):
    """How segments become what a server is sent."""

    @property
    def name(self) -> str:
        """For reports: ``random token ids``."""
        ...

    def render(self, prompt: Sequence[Segment]) -> list[int] | str:
        """Token ids, or text of about as many tokens. Equal segments give equal content."""
        ...


@dataclass(frozen=True)
class RandomTokens:
    """Token ids drawn from a known vocabulary.

    The outer eighths of it are left out: tokenizers keep their special tokens there.
    """

    vocab_size: int
    name: str = "random token ids"

    def render(self, prompt: Sequence[Segment]) -> list[int]:
        low, high = self.vocab_size // 8, self.vocab_size - self.vocab_size // 8
        ids = range(low, max(high, low + 1))
        return [token for part in prompt for token in random.Random(part.seed).choices(ids, k=part.tokens)]


@dataclass(frozen=True)
class RandomWords:
    """Common words, about a token each: for a server whose vocabulary is not known."""

    name: str = "random words"

    def render(self, prompt: Sequence[Segment]) -> str:
        words = WORDS.split()
        return " ".join(
            word for part in prompt for word in random.Random(part.seed).choices(words, k=part.tokens)
        )


WORDS = (
    "the of and to in is was for on that with as be at by this had not are but from or have an they "
    "which one you were all her she there would their we him been has when who will no more if out "
    "said what its than into them can only other time new some could these two may first then do any like"
)
