"""Kernels of ``linear`` that differ in layout, in being right, and in speed by a clock of their own."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from fullbore.hardware.ceiling import Probes
from fullbore.ops.contract import Kernel
from fullbore.ops.formats import Weight
from fullbore.ops.registry import Entry, Registry


class Clock:
    """Seconds that pass only when a kernel runs."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


CLOCK = Clock()
RUNS: list[str] = []  # names of kernels in the order they ran


class Toy(Kernel):
    """Right, at ``fixed_us`` a call and ``token_us`` a token."""

    name: ClassVar[str] = "steady"
    operator: ClassVar[str] = "linear"
    layout: ClassVar[str] = "rows"
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    formats: ClassVar[tuple[str, ...]] = ("bf16", "fp32", "fp8_block")
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)
    fixed_us: ClassVar[float] = 10.0
    token_us: ClassVar[float] = 10.0

    def pack(self, *weights: Any) -> Tensor:
        weight: Weight = weights[0]
        return weight.dequantise(torch.float32).clone()

    def run(self, packed: Any, *inputs: Any) -> Any:
        CLOCK.seconds += 1e-6 * (self.fixed_us + self.token_us * len(inputs[0]))
        RUNS.append(self.name)
        return inputs[0] @ packed.T


class Quick(Toy):
    """Faster from some tokens on, and packs columns, twice."""

    name = "quick"
    layout = "columns"
    fixed_us = 100.0
    token_us = 1.0

    def pack(self, *weights: Any) -> Tensor:
        return super().pack(*weights).T.contiguous().repeat(2, 1)

    def run(self, packed: Any, *inputs: Any) -> Any:
        return super().run(packed[: len(packed) // 2].T, *inputs)


class Wrong(Toy):
    """Fastest, and off by one part in a hundred where a row is small."""

    name = "wrong"
    fixed_us = 0.1
    token_us = 0.1

    def run(self, packed: Any, *inputs: Any) -> Any:
        y = super().run(packed, *inputs)
        small = inputs[0].norm(dim=-1, keepdim=True) < 0.1
        return torch.where(small, y * 1.01, y)


class Nan(Toy):
    name = "nan"

    def run(self, packed: Any, *inputs: Any) -> Any:
        return super().run(packed, *inputs) * float("nan")


class Raises(Toy):
    name = "raises"

    def run(self, packed: Any, *inputs: Any) -> Any:
        if len(inputs[0]) == 1:
            raise RuntimeError("illegal instruction")
        return super().run(packed, *inputs)


class Odd(Toy):
    """Takes no small matrices: it is examined at the job's own shape alone."""

    name = "odd"

    @classmethod
    def unsupported(cls, job: Any) -> list[str]:
        small = dict(job.shape)["in"] < 512
        return [*super().unsupported(job), *(["takes matrices from 512 wide on"] if small else [])]


def entry(kernel: type[Kernel]) -> Entry:
    return Entry(kernel.operator, kernel.name, f"toy_kernels:{kernel.__name__}")


def registry(*kernels: type[Kernel]) -> Registry:
    return Registry([Entry("linear", "absent", "no_such_library:Kernel"), *map(entry, kernels)])


PROBES = Probes(lambda: 1e10, lambda dtype: 1e11)
