"""One request, as the scheduler sees it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from fullbore.engine.messages import Sampling, Submit
from fullbore.engine.prefix import PageTable
from fullbore.errors import IntegrityError


@dataclass(slots=True, eq=False)
class Request:
    """Four counts of tokens say where a request stands:

        0 <= cached <= computed <= known <= most

        |  from the tree  |  computed here  |  not yet computed  |  not yet sampled  |
        0               cached           computed              known               most

    ``cached`` and ``computed`` restart at each admission. ``computed`` and ``known`` count what launched
    steps will have done; ``tokens`` has only the values that have come back, so it may be shorter.
    """

    id: int
    prompt: tuple[int, ...]
    sampling: Sampling
    salt: str
    arrival: int  # order of submission: who came first is served first, and gives way last
    most: int  # prompt and max_tokens
    ends: frozenset[int]  # tokens that end it
    tokens: list[int] = field(init=False)  # prompt and what was sampled
    cached: int = 0
    computed: int = 0
    known: int = field(init=False)
    table: PageTable | None = None  # while it runs
    last_step: int = 0  # the last step that has a row of it
    started: bool = False  # the runner knows it
    base: int | None = None  # while it decodes: its counts are then those of ``Decoding``
    finish: str = ""
    hit: int = 0  # tokens from the tree at its first admission
    announced: bool = False  # its first event is out

    @classmethod
    def of(cls, submit: Submit, arrival: int, eos_token_ids: Iterable[int]) -> "Request":
        """What ``submit`` asks for; ``eos_token_ids`` end it unless it ignores them."""
        sampling, prompt = submit.sampling, tuple(submit.prompt)
        ends = frozenset(sampling.stop_token_ids)
        if not sampling.ignore_eos:
            ends |= frozenset(eos_token_ids)
        return cls(
            submit.request, prompt, sampling, submit.salt, arrival, len(prompt) + submit.max_tokens, ends
        )

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)
        self.known = len(self.tokens)

    @property
    def left(self) -> int:
        """Tokens to compute before the next one can be sampled; 0 when nothing more is to be sampled."""
        return self.known - self.computed if self.known < self.most else 0

    def check_counts(self) -> None:
        """The four counts are in order and no value came back that was not counted; else IntegrityError."""
        if not 0 <= self.cached <= self.computed <= self.known <= self.most or len(self.tokens) > self.known:
            raise IntegrityError(
                f"request {self.id}: expected 0 <= cached <= computed <= known <= most, got {self.cached}, "
                f"{self.computed}, {self.known}, {self.most} with {len(self.tokens)} tokens"
            )


def never_fits(submit: Submit, max_model_len: int, pages: int, page_size: int) -> str:
    """Why this request can never be served by so many pages; "" when it can."""
    most = len(submit.prompt) + submit.max_tokens
    wanted = -(-(most - 1) // page_size)  # the last token is never computed
    if not submit.prompt:
        return "the prompt is empty: expected at least one token"
    if submit.max_tokens < 1:
        return f"max_tokens is {submit.max_tokens}: expected at least 1"
    if most > max_model_len:
        return (
            f"{len(submit.prompt)} prompt tokens and {submit.max_tokens} new ones exceed the {max_model_len} "
            "tokens that a request may have (shorten the prompt or lower max_tokens)"
        )
    if wanted > pages:
        return (
            f"{most} tokens need {wanted} pages of cache, there are {pages} "
            "(shorten the request or give the cache more memory)"
        )
    return ""
