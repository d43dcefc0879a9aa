"""What the engine does around the model, in CPU time: ``python -m benchmarks.loop``.

Scheduler, loop, runner, sampler and messages work as in service on a model that answers at once.
"""

import sys
from types import SimpleNamespace

import torch
from torch import Tensor

from fullbore.engine.host_share import step_us
from fullbore.model.batch import Batch

VOCAB = 32000
WARM, STEPS, TURNS = 40, 50, 20  # the least of TURNS readings of STEPS steps is told


class NoModel:
    """Greedy token 0 for every row."""

    config, sample = SimpleNamespace(vocab_size=VOCAB), None

    def __init__(self) -> None:
        self._logits, self._tokens = torch.zeros(64, VOCAB, dtype=torch.bfloat16), torch.zeros(64).long()

    swept_s = 0.0

    def new_cache(self, pages: int, page_size: int) -> tuple[Tensor, ...]:
        return ()

    def forward(self, batch: Batch, cache: tuple[Tensor, ...]) -> Tensor:
        return self._logits[: len(batch.logits_at)]

    def greedy(self, logits: Tensor) -> Tensor:
        return self._tokens[: len(logits)]


def main() -> int:
    torch.set_num_threads(1)
    for requests in (1, 4, 16, 64):
        taken = step_us(NoModel(), VOCAB, requests, WARM, STEPS, TURNS)
        print(f"{requests:3} in flight: {taken:6.0f} us a step, {taken / requests:5.1f} us a token")
    return 0


if __name__ == "__main__":
    sys.exit(main())
