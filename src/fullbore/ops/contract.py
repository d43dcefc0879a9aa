"""The contract of an operator, and of a kernel that implements it.

An operator says what is to be computed; a kernel is one way to compute it. Tests, the tuner, roofline
figures and the planner are all made from these two classes, so adding a kernel is adding one object.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Generator, Tensor

Shape = Mapping[str, int]


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
class Operator:
    """What is computed.

    reference(weights, *inputs): plain torch in float32, as short as the formula it cites.
    cost(shape, format): the roofline's two numbers.
    draw(shape, case, format, generator): inputs for one of ``cases``.
    tolerance[format]: relative L2 error that a correct kernel of this format stays under.
    shapes: small ones for correctness, ragged on purpose.
    """

    name: str
    reference: Callable[..., Tensor | tuple[Tensor, ...]]
    cost: Callable[[Shape, str], Cost]
    draw: Callable[[Shape, str, str, Generator], Case]
    cases: tuple[str, ...]
    shapes: tuple[Shape, ...]
    tolerance: Mapping[str, float]


class Kernel(ABC):
    """One implementation of one operator. ``name`` is unique among the kernels of its operator."""

    name: str
    operator: str
    devices: tuple[str, ...]
    formats: tuple[str, ...]

    def unsupported(self, shape: Shape, device: str, format: str) -> list[str]:
        """Why this kernel cannot run here, in words a person understands; empty when it can."""
        reasons = []
        if device not in self.devices:
            reasons.append(f"runs on {', '.join(self.devices)}, not on {device}")
        if format not in self.formats:
            reasons.append(f"takes weights as {', '.join(self.formats)}, not as {format}")
        return reasons

    def pack(self, *weights: Any) -> Any:
        """The weights in this kernel's own layout, made once at load; None where there are no weights."""
        return None

    @abstractmethod
    def run(self, packed: Any, *inputs: Any) -> Any:
        """The operator's output. Takes no decision that depends on values, only on shapes."""
