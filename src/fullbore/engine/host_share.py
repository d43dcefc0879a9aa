"""What a step costs beside its operators, in CPU time: scheduler, loop, runner, sampler, messages, and the
Python of the network.

All of these work as in service, on a network whose operators answer at once. Those that read weights read
other memory, whose time is not counted: a step finds the caches as cold as weights leave them. CPU
time of the one thread that does it hardly depends on what else the machine does.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import torch
from torch import Tensor

from fullbore.engine.loop import Loop
from fullbore.engine.messages import Command, Outputs, Report, Sampling, Submit
from fullbore.engine.runner import Runner
from fullbore.engine.scheduler import Scheduler
from fullbore.hardware.device import CPU
from fullbore.model.batch import Batch
from fullbore.model.config import ModelConfig
from fullbore.model.deepseek import DeepseekV3
from fullbore.model.parts import Call
from fullbore.model.workload import Source
from fullbore.parallel.rank import WHOLE

PAGES, PAGE, PROMPT = 8000, 16, 100
MOST_REQUESTS = 64
_FEW, _MANY = 1, 16  # requests in flight, from which the cost of a step and that of a row follow
_WARM, _STEPS, _TURNS = 20, 5, 8  # the least of so many turns of so many steps is told
_SWEPT_BYTES, _SWEEP_BYTES = 64 << 20, 2 << 20  # of memory that weights stand for; read by one large operator


class Hollow(Protocol):
    """What of a network a runner needs."""

    @property
    def config(self) -> Any: ...

    @property
    def sample(self) -> Call | None: ...

    @property
    def greedy(self) -> Callable[..., Tensor]: ...

    @property
    def swept_s(self) -> float:
        """What does not count, since the start."""
        ...

    def new_cache(self, pages: int, page_size: int) -> tuple[Tensor, ...]: ...

    def forward(self, batch: Batch, cache: tuple[Tensor, ...]) -> Tensor: ...


def host_us(
    config: ModelConfig, source: Source, dtype: str, swept_bytes: int = _SWEEP_BYTES
) -> tuple[float, float]:
    """(of each step, of each of its rows), in microseconds, for the network of ``config``. swept_bytes: what
    an operator reads, on average."""
    model = HollowNetwork(config, source, dtype, swept_bytes)
    few, many = (step_us(model, config.vocab_size, count) for count in (_FEW, _MANY))
    row = max(0.0, (many - few) / (_MANY - _FEW))
    return max(0.0, few - _FEW * row), row


def step_us(
    model: Hollow, vocab: int, requests: int, warm: int = _WARM, steps: int = _STEPS, turns: int = _TURNS
) -> float:
    """CPU time of a step with so many decodes, in microseconds."""
    wish = Sampling(temperature=0.0, ignore_eos=True)
    answer, length = warm + steps * turns + 10, min(PROMPT, vocab)
    prompts = [[(first + place) % vocab for place in range(length)] for first in range(requests)]
    wire = _NoWire([Submit(number, prompt, answer, wish) for number, prompt in enumerate(prompts)])
    runner = Runner(model, PAGES, PAGE, ())  # type: ignore[arg-type]
    loop = Loop(Scheduler(PAGES, PAGE, MOST_REQUESTS, 512, MOST_REQUESTS, 4096, ()), runner, wire, vocab)
    while wire.tokens < requests * warm:  # every prompt is computed by then
        loop.turn()
    least, before = float("inf"), wire.tokens
    for _ in range(turns):
        begin, swept = time.thread_time(), model.swept_s
        for _ in range(steps):
            loop.turn()
        least = min(least, time.thread_time() - begin - (model.swept_s - swept))
    if wire.tokens - before != requests * steps * turns:
        raise RuntimeError("not every step was a decode of every request")
    return 1e6 * least / steps


class HollowNetwork(DeepseekV3):
    """The network with operators that return what is at hand, in the right shape."""

    def __init__(
        self, config: ModelConfig, source: Source, dtype: str, swept_bytes: int = _SWEEP_BYTES
    ) -> None:
        self._sweep = _Sweep(swept_bytes)
        super().__init__(config, _HollowParts(config, source, self._sweep), dtype)

    @property
    def swept_s(self) -> float:
        return self._sweep.taken_s

    def new_cache(self, pages: int, page_size: int) -> tuple[Tensor, ...]:
        return tuple(torch.empty(0) for _ in self.layers)


class _HollowParts:
    """Reads names and shapes, never values."""

    bytes, device, role = 0, CPU, WHOLE

    def __init__(self, config: ModelConfig, source: Source, sweep: "_Sweep") -> None:
        self._sweep = sweep
        self.weight, self.tensor = source.outline, source.tensor
        self._config = config
        self._widest: dict[int, Tensor] = {}

    def bind_all(self, operators: Sequence[str], *weights: Any) -> tuple[Call, ...]:
        return tuple(self.bind(operator, *weights) for operator in operators)

    def bind(self, operator: str, *weights: Any) -> Call:
        config = self._config
        if operator == "linear":
            return self._rows(sum(weight.data.shape[0] for weight in weights))
        if operator == "embed":
            return self._rows(config.hidden_size)
        if operator in ("mla_decode", "mla_prefill"):
            return self._rows(config.num_attention_heads * config.v_head_dim)
        if operator == "latents":
            rows = self._rows(config.q_lora_rank or 0)
            return lambda down, cos, sin, cache, slots: (rows(down), cache)
        if operator == "greedy":
            tokens = torch.zeros(MOST_REQUESTS, dtype=torch.int64)
            return lambda logits: tokens[: len(logits)]
        if operator in ("route", "add_rms_norm"):
            return lambda x, *others: (x, others[0] if others else x)
        return lambda x, *others: x  # rope, swiglu, moe_ffn

    def done(self) -> None:
        """Nothing was read, so there is nothing to release."""

    def _rows(self, width: int) -> Call:
        if width not in self._widest:
            self._widest[width] = torch.zeros(1, width)
        values, sweep = self._widest[width], self._sweep

        def run(x: Tensor, *others: Any) -> Tensor:
            sweep()
            return values.expand(len(x), width)

        return run


class _Sweep:
    """Reads memory that no cache holds, and keeps the time apart."""

    def __init__(self, size_bytes: int) -> None:
        self.taken_s = 0.0
        self._size = min(size_bytes, _SWEEP_BYTES) // 4
        self._memory, self._at = torch.zeros(_SWEPT_BYTES // 4), 0

    def __call__(self) -> None:
        begin = time.thread_time()
        self._memory[self._at : self._at + self._size].sum()
        self._at = (self._at + self._size) % (len(self._memory) - self._size)
        self.taken_s += time.thread_time() - begin


class _NoWire:
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
