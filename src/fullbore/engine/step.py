"""The plan of one step: the only thing that passes from the scheduler to a runner.

A step is a value. It holds counts, positions and page numbers, never tokens: the runner knows each
request's tokens (the prompt came with ``Started``; what it sampled it kept), so a step can be planned
before the tokens of the one before it are known.

They are structs, not dataclasses: a struct is made six times as fast. Rows of requests that decode are
kept by column, since from step to step nothing changes in most of them but where they are.
"""

import msgspec

from fullbore.engine.messages import Sampling


class Started(msgspec.Struct, frozen=True):
    """A request that the runner has not seen before: what it needs to keep until ``Step.ended`` names it."""

    request: int
    prompt: tuple[int, ...]
    sampling: Sampling


class Row(msgspec.Struct, frozen=True, gc=False):
    """Tokens ``first .. first + count - 1`` of one request, computed in this step.

    ``pages`` is the request's page table; it covers at least ``first + count`` positions.
    ``samples`` says whether the last token's logits are wanted and one new token is sampled from them:
    true exactly when ``first + count`` equals the number of tokens the request has so far.
    """

    request: int
    first: int
    count: int
    pages: tuple[int, ...]
    samples: bool


class Decodes(msgspec.Struct, frozen=True, gc=False):
    """Rows of one token that sample, by column: row ``i`` computes token ``bases[i] + ticks``."""

    requests: tuple[int, ...] = ()
    bases: tuple[int, ...] = ()
    ticks: int = 0
    pages: tuple[tuple[int, ...], ...] = ()

    @property
    def tokens_before(self) -> int:
        """How many tokens the rows follow, all together."""
        return sum(self.bases) + self.ticks * len(self.bases)

    def rows(self) -> tuple[Row, ...]:
        """One by one."""
        columns = zip(self.requests, self.bases, self.pages, strict=True)
        return tuple([Row(request, base + self.ticks, 1, pages, True) for request, base, pages in columns])


class Step(msgspec.Struct, frozen=True):
    """One forward pass over a mixed batch; rows of one token (decodes) come first.

    Order of effects in a runner: ``started``, then the rows, then what ``ended`` names is forgotten.
    """

    number: int
    others: tuple[Row, ...]  # after the decodes: chunks of prompts, those of one token first
    started: tuple[Started, ...] = ()
    ended: tuple[int, ...] = ()
    decodes: Decodes = Decodes()

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows; made anew each time."""
        return self.decodes.rows() + self.others

    @property
    def tokens(self) -> int:
        """How many tokens this step computes."""
        return len(self.decodes.requests) + sum([row.count for row in self.others])


class Sampled(msgspec.Struct, frozen=True, gc=False):
    """What one row that samples gave.

    ``error`` is "" or what went wrong with this request alone (logits that are not finite); ``token`` is
    then ignored. ``logprob`` and ``top`` (best first) are there as far as ``Sampling.logprobs`` asks.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    error: str = ""
