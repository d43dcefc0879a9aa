"""A runner without a model: its tokens depend on every token before them, so a lost or changed one shows."""

import os
import time
from collections.abc import Callable

from fullbore.engine.step import Row, Sampled, Step

VOCAB = 1000
FAILS, IS_NAN, EXITS, HANGS = 901, 902, 903, 904  # what these tokens in a prompt do to the step


def next_token(tokens: list[int]) -> int:
    return (31 * sum(tokens) + 7 * len(tokens) + tokens[-1]) % 900


def expected(prompt: list[int], count: int) -> list[int]:
    """What a request alone gets."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


class FakeRunner:
    """As the real one, it keeps tokens by request and lets a step be run again in parts."""

    def __init__(self, step_s: float = 0.0, disturb: Callable[[Step], None] | None = None) -> None:
        self.tokens: dict[int, list[int]] = {}
        self.steps: list[Step] = []
        self._step_s = step_s
        self._disturb = disturb

    def launch(self, step: Step) -> "FakeRunner.Handle":
        for started in step.started:
            self.tokens[started.request] = list(started.prompt)
        self.steps.append(step)
        if self._disturb is not None:
            self._disturb(step)
        for row in step.rows:
            self._act(self.tokens[row.request])
        if step.rows:
            time.sleep(self._step_s)
        results = {row.request: self._row(row) for row in step.rows if row.samples}
        for request in step.ended:
            self.tokens.pop(request, None)
        return FakeRunner.Handle(results)

    def _act(self, tokens: list[int]) -> None:
        if FAILS in tokens:
            raise ValueError("this row breaks the whole step")
        if EXITS in tokens:
            os._exit(9)
        if HANGS in tokens:
            time.sleep(1e6)

    def _row(self, row: Row) -> Sampled:
        tokens = self.tokens[row.request]
        known = row.first + row.count
        if known > len(tokens):
            return Sampled(-1, None, (), "its tokens are not known to the runner")
        if IS_NAN in tokens:
            return Sampled(-1, None, (), "logits not finite")
        del tokens[known:]
        tokens.append(next_token(tokens))
        return Sampled(tokens[-1])

    class Handle:
        def __init__(self, results: dict[int, Sampled]) -> None:
            self._results = results

        def sampled(self) -> dict[int, Sampled]:
            return self._results
