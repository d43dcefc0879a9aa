"""What the engine does around the model, in CPU time: ``python -m benchmarks.loop``.

Scheduler, loop, runner, sampler and messages work as in service on a model that answers at once.
"""

import sys
import time

import msgspec
import torch
from torch import Tensor

from fullbore.engine.loop import Loop
from fullbore.engine.messages import Command, Outputs, Report, Sampling, Submit
from fullbore.engine.runner import Runner
from fullbore.engine.scheduler import Scheduler
from fullbore.model.batch import Batch

VOCAB, PAGES, PAGE, PROMPT = 32000, 8000, 16, 100
WARM, STEPS, TURNS = 40, 50, 20  # the least of TURNS readings of STEPS steps is told


class NoModel:
    """Greedy token 0 for every row."""

    def __init__(self) -> None:
        self._logits, self._tokens = torch.zeros(64, VOCAB, dtype=torch.bfloat16), torch.zeros(64).long()

    def new_cache(self, pages: int, page_size: int) -> tuple[Tensor, ...]:
        return ()

    def forward(self, batch: Batch, cache: tuple[Tensor, ...]) -> Tensor:
        return self._logits[: len(batch.logits_at)]

    def greedy(self, logits: Tensor) -> Tensor:
        return self._tokens[: len(logits)]


class NoWire:
    """Encodes what would be sent."""

    dropped = 0

    def __init__(self, commands: list[Command]) -> None:
        self._commands, self._encoder, self.tokens = commands, msgspec.msgpack.Encoder(), 0

    def receive(self, timeout_s: float) -> list[Command]:
        commands, self._commands = self._commands, []
        return commands

    def send(self, report: Report) -> None:
        self._encoder.encode(report)
        self.tokens += len(report.events) if isinstance(report, Outputs) else 0


def microseconds(requests: int) -> float:
    """CPU time of a step with so many decodes."""
    answer = WARM + STEPS * TURNS + 10
    wish = Sampling(temperature=0.0, ignore_eos=True)
    prompts = [list(range(first, first + PROMPT)) for first in range(requests)]
    wire = NoWire([Submit(number, prompt, answer, wish) for number, prompt in enumerate(prompts)])
    runner = Runner(NoModel(), PAGES, PAGE, ())  # type: ignore[arg-type]
    loop = Loop(Scheduler(PAGES, PAGE, 64, 512, 64, 4096, ()), runner, wire, VOCAB)
    for _ in range(WARM):
        loop.turn()
    least, before = float("inf"), wire.tokens
    for _ in range(TURNS):
        begin = time.process_time()
        for _ in range(STEPS):
            loop.turn()
        least = min(least, time.process_time() - begin)
    assert wire.tokens - before == requests * STEPS * TURNS, "not every step was a decode of every request"
    return 1e6 * least / STEPS


def main() -> int:
    torch.set_num_threads(1)
    for requests in (1, 4, 16, 64):
        taken = microseconds(requests)
        print(f"{requests:3} in flight: {taken:6.0f} us a step, {taken / requests:5.1f} us a token")
    return 0


if __name__ == "__main__":
    sys.exit(main())
