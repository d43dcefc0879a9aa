"""The order in which a device works, and what crosses between it and the host.

A runner hands over pieces of work; they are done one after the other, at once or later. What a piece made on
the device is there for every later piece. The host sees nothing of it before it has waited for an event.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy.typing as npt
import torch
from torch import Tensor

from fullbore.hardware.device import Device

Arrays = Mapping[str, npt.NDArray[Any]]
Work = Callable[[], None]


class Event(Protocol):
    """A moment in the work of a device."""

    def wait(self) -> None:
        """Until all that was run before it is done. Raises what went wrong there."""
        ...


class Stream(Protocol):
    """``to_device`` and ``to_host`` are for use within work that is run."""

    def run(self, work: Work) -> None:
        """Do ``work`` after all that was run before. What goes wrong is raised here or by the next event."""
        ...

    def record(self) -> Event:
        """Now, in the order of what was run."""
        ...

    def to_device(self, arrays: Arrays) -> dict[str, Tensor]:
        """Tensors of these arrays, which must never change again."""
        ...

    def to_host(self, tensor: Tensor) -> Tensor:
        """A tensor of the host that has the values of ``tensor`` once the next event has come."""
        ...

    def capture(self, work: Work) -> Work:
        """``work`` in a form that is started at once: it uses the same tensors every time."""
        ...


class _Past:
    """An event that has come."""

    def wait(self) -> None:
        """Nothing is left to do."""


PAST: Event = _Past()


class Immediate:
    """The CPU: what is run is done, and device and host are one memory."""

    def run(self, work: Work) -> None:
        work()

    def record(self) -> Event:
        return PAST

    def to_device(self, arrays: Arrays) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def to_host(self, tensor: Tensor) -> Tensor:
        return tensor

    def capture(self, work: Work) -> Work:
        return work


def stream_of(device: Device) -> Stream:
    """That of the tensors of ``device``."""
    if device.place == "cpu":
        return Immediate()
    from fullbore.engine.cuda import CudaStream

    return CudaStream(device.place)
