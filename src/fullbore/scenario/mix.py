"""Which steps a scenario makes: how many decodes with what context, and what chunks of prompts beside them.

Kernels are chosen for this mix. It comes from running the scenario as a closed loop in counts alone, from a
steady state: requests of its mean lengths whose ages are spread evenly, each replaced the moment it ends.
What a prefix cache can hold of a prompt (shared prompts, earlier turns) is context and not computed again.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from fullbore.scenario.scenario import Scenario

MOST_STEPS = 20_000  # of a request's life are looked at; longer answers only repeat themselves
MOST_KINDS = 64  # of steps are told apart; where there are more, the rarest are left out

Chunks = tuple[tuple[int, int], ...]  # (tokens, first position) of each


@dataclass(frozen=True)
class StepShape:
    """One kind of step. ``weight``: its share of all steps; the shares of a mix add up to 1."""

    decodes: int  # rows of one token
    context: int  # keys visible to a decode row, on average
    chunks: Chunks  # of prompts
    sampled: int  # rows whose logits are wanted
    weight: float

    @property
    def tokens(self) -> int:
        """All tokens of the step."""
        return self.decodes + sum(tokens for tokens, _ in self.chunks)


Mix = tuple[StepShape, ...]


def step_mix(scenario: Scenario, concurrency: int, most_tokens: int = 512) -> Mix:
    """The steps of ``scenario`` with ``concurrency`` requests in flight, the most frequent kind first.

    ``most_tokens``: in one step (``--max-num-batched-tokens``). Decodes go first, prompts fill what is left
    in the order of their arrival, as in the engine's scheduler. Counts are kept to two digits.
    """
    contexts: dict[tuple[int, Chunks, int], list[int]] = {}
    for decodes, context, chunks, sampled in _run(
        scenario, max(1, min(concurrency, most_tokens)), most_tokens
    ):
        short = tuple((_two_digits(tokens), _two_digits(first)) for tokens, first in chunks)
        contexts.setdefault((_two_digits(decodes), short, _two_digits(sampled)), []).append(context)
    kept = sorted(contexts.items(), key=lambda kind: -len(kind[1]))[:MOST_KINDS]
    steps = sum(len(seen) for _, seen in kept)
    return tuple(
        StepShape(decodes, _two_digits(sum(seen) // len(seen)), chunks, sampled, len(seen) / steps)
        for (decodes, chunks, sampled), seen in kept
    )


def _run(scenario: Scenario, concurrency: int, most_tokens: int) -> Iterator[tuple[int, int, Chunks, int]]:
    """(decodes, their mean context, chunks, sampled rows) of each step in one request's lifetime."""
    prompt, decode_steps = scenario.input_tokens, scenario.output_tokens - 1
    history = scenario.history_tokens
    running: deque[tuple[int, int]] = deque()  # (step it ends before, context - step), oldest first
    waiting: deque[int] = deque()  # prompt tokens computed so far
    for number in reversed(range(concurrency)):
        age = number * decode_steps // concurrency
        if decode_steps:
            running.append((decode_steps - age, history + prompt + age + 1))
        else:
            waiting.append(0)
    for step in range(min(MOST_STEPS, decode_steps + -(-prompt * concurrency // most_tokens))):
        while running and running[0][0] <= step:
            running.popleft()
            waiting.append(0)  # the request that replaces it
        decodes, room, done = len(running), most_tokens - len(running), 0
        chunks: list[tuple[int, int]] = []
        context = sum(base for _, base in running) // decodes + step if decodes else 0
        while waiting and room and len(chunks) < concurrency:
            first = waiting.popleft()
            tokens = min(prompt - first, room)
            chunks.append((tokens, history + first))
            room -= tokens
            if first + tokens < prompt:
                waiting.appendleft(first + tokens)
            elif decode_steps:
                running.append((step + 1 + decode_steps, history + prompt - step))
                done += 1
            else:
                waiting.append(0)
                done += 1
        yield decodes, context, tuple(chunks), decodes + done


def _two_digits(count: int) -> int:
    """``count`` with at most two digits that are not 0: close enough for a time, and few kinds of steps."""
    unit: int = 10 ** max(0, len(str(count)) - 2)
    return round(count / unit) * unit
