"""The contract of an operator, and of a kernel that implements it.

An operator says what is to be computed; a kernel is one way to compute it. Tests, the tuner, roofline
figures and the planner are all made from these classes, so adding a kernel is adding one object.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

Shape = Mapping[str, int]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Cost:
    """The least that the operator must do: each input read once, each output written once."""

    flops: int  # a multiply-add counts two
    bytes: int


@dataclass(frozen=True)
class Case:
    """Inputs of one test or timing: ``weights`` go to ``Kernel.pack``, ``inputs`` to ``Kernel.run``."""

    weights: tuple[Any, ...]
    inputs: tuple[Any, ...]


@dataclass(frozen=True)
class Tolerance:
    """Relative error that a correct kernel stays under, and why that much and no more."""

    relative: float
    reason: str


def worst_row_error(output: Tensor, reference: Tensor) -> float:
    """Largest relative L2 error of any row (the last dimension), so that a large row hides no small one."""
    expected = reference.double().reshape(-1, reference.shape[-1])
    difference = (output.double().reshape(expected.shape) - expected).norm(dim=-1)
    error = difference / expected.norm(dim=-1).clamp_min(1e-30)
    return float(error.nan_to_num(float("inf")).max())


@dataclass(frozen=True)
class Operator:
    """What is computed. ``weights`` below means everything known at load, numbers such as eps included.

    reference(weights, *inputs): plain torch in float32, as short as the formula it cites.
    describe(*weights): the shape (without token counts) and the format that a kernel is chosen by.
    cost(shape, format, dtype): the roofline's two numbers.
    draw(shape, case, format, dtype, generator): inputs for one of ``cases``.
    shapes: small ones for correctness, ragged on purpose.
    tolerance[dtype]: for arithmetic in that type on exactly decoded weights; "FORMAT, DTYPE" where the
        kernels of a format also round activations, to 8 bits; a ``Kernel.rounds`` where only some do.
    error(output, reference): how far apart two outputs are.
    timed: the case that timings use.
    draw_inputs(shape, case, dtype, generator): the inputs alone, where weights are large or the inputs decide
        which of them are read; timings draw several.
    """

    name: str
    reference: Callable[..., Any]
    describe: Callable[..., tuple[Shape, str]]
    cost: Callable[[Shape, str, str], Cost]
    draw: Callable[[Shape, str, str, torch.dtype, Generator], Case]
    cases: tuple[str, ...]
    formats: tuple[str, ...]
    shapes: tuple[Shape, ...]
    tolerance: Mapping[str, Tolerance]
    error: Callable[[Any, Any], float] = worst_row_error
    timed: str = "random"
    draw_inputs: Callable[[Shape, str, torch.dtype, Generator], tuple[Any, ...]] | None = None

    def arithmetic(self, format: str, dtype: str) -> str:
        """What products are made in, in ``Ceiling``'s words: int8 where activations are rounded to it too."""
        return "int8" if f"{format}, {dtype}" in self.tolerance else dtype

    def limit(self, format: str, dtype: str, rounds: str = "") -> float:
        """The relative error allowed to a kernel of this weight format, arithmetic and ``Kernel.rounds``."""
        lossy = [self.tolerance.get(f"{format}, {dtype}"), self.tolerance[rounds] if rounds else None]
        return max(self.tolerance[dtype].relative, *(each.relative if each else 0.0 for each in lossy))


@dataclass(frozen=True)
class Job:
    """What a kernel is chosen for. ``shape`` is the operator's shape without token counts, sorted by name."""

    operator: str
    shape: tuple[tuple[str, int], ...]
    format: str  # of the weights; "none" for an operator without matrices
    dtype: str  # of activations and arithmetic: float32 or bfloat16
    device: str

    @staticmethod
    def of(operator: Operator, weights: tuple[Any, ...], dtype: str, device: str) -> "Job":
        """The job that these weights make for this operator; reads shapes, never values."""
        shape, format = operator.describe(*weights)
        return Job(operator.name, tuple(sorted(shape.items())), format, dtype, device)


class Kernel(ABC):
    """One implementation of one operator. ``name`` is unique among the kernels of its operator."""

    name: ClassVar[str]
    operator: ClassVar[str]
    layout: ClassVar[
        str
    ]  # kernels with one layout take each other's packed weights, so a matrix is kept once
    devices: ClassVar[tuple[str, ...]]
    formats: ClassVar[tuple[str, ...]]
    dtypes: ClassVar[tuple[str, ...]]
    family: ClassVar[str] = ""  # name of the one that it differs from in sizes alone (``Entry.constants``)
    rounds: ClassVar[str] = ""  # what it rounds activations to beside its type, a key of Operator.tolerance

    def __init__(self, dtype: str) -> None:
        self.dtype = DTYPES[dtype]

    @classmethod
    def unsupported(cls, job: Job) -> list[str]:
        """Why this kernel cannot do ``job``, in words a person understands; empty when it can."""
        return cls.unintended(job)

    @classmethod
    def unintended(cls, job: Job) -> list[str]:
        """The device, the format or the type that it was never made for: no lack on any machine."""
        reasons = []
        if job.device not in cls.devices:
            reasons.append(f"runs on {', '.join(cls.devices)}, not on {job.device}")
        if job.format not in cls.formats:
            reasons.append(f"takes weights as {', '.join(cls.formats)}, not as {job.format}")
        if job.dtype not in cls.dtypes:
            reasons.append(f"computes in {', '.join(cls.dtypes)}, not in {job.dtype}")
        return reasons

    def pack(self, *weights: Any) -> Any:
        """The weights in this kernel's own layout, made once at load; never a view of what was given."""
        return None

    @classmethod
    def binary(cls) -> str:
        """Path of the compiled library that it runs, "" without one. Times of another build are stale."""
        return ""

    @abstractmethod
    def run(self, packed: Any, *inputs: Any) -> Any:
        """The operator's output. Takes no decision that depends on values, only on shapes."""


def packed_bytes(packed: Any) -> int:
    """Memory held by packed weights: the tensors in it, at any depth of tuples."""
    if isinstance(packed, Tensor):
        return packed.untyped_storage().nbytes()
    if isinstance(packed, Iterable) and not isinstance(packed, str):
        return sum(packed_bytes(part) for part in packed)
    return 0
