"""A stream of a GPU, by torch's names for NVIDIA's, which are those for AMD's too."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from fullbore.engine.stream import Arrays, Event, Work
from fullbore.hardware.device import DeviceLostError

_ALIGNMENT = 16
_WARM_UPS = 2  # before a capture: kernels are compiled, libraries take their workspaces


class CudaStream:
    """torch's current stream of the device named ``place``.

    Every array that crosses has pinned memory of its own, which torch hands out again only when the copy is
    done: nothing is overwritten on its way.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._pool = torch.cuda.graph_pool_handle()  # graphs run one at a time, so they may share memory

    def run(self, work: Work) -> None:
        try:
            work()
        except RuntimeError as error:
            _see_whether_lost(error)
            raise

    def record(self) -> Event:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return _CudaEvent(event)

    def to_device(self, arrays: Arrays) -> dict[str, Tensor]:
        """In one copy, however many there are."""
        size = sum(_room(array.nbytes) for array in arrays.values())
        host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        pack(arrays, host)
        return unpack(arrays, host.to(self._place, non_blocking=True))

    def to_host(self, tensor: Tensor) -> Tensor:
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor, non_blocking=True)

    def capture(self, work: Work) -> Work:
        for _ in range(_WARM_UPS):
            work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            work()
        return graph.replay


class _CudaEvent:
    def __init__(self, event: torch.cuda.Event) -> None:
        self._event = event

    def wait(self) -> None:
        try:
            self._event.synchronize()
        except RuntimeError as error:
            _see_whether_lost(error)
            raise


def _see_whether_lost(error: RuntimeError) -> None:
    """DeviceLostError where the device does nothing any more, whatever is asked of it."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        raise DeviceLostError(
            f"the GPU refuses all work since an error in a kernel: {error} (start a new engine)"
        ) from error


def pack(arrays: Arrays, buffer: Tensor) -> None:
    """The bytes of ``arrays`` into ``buffer`` [bytes] uint8, one after the other."""
    flat = buffer.numpy()
    for array, start in zip(arrays.values(), _starts(arrays), strict=True):
        flat[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def unpack(arrays: Arrays, buffer: Tensor) -> dict[str, Tensor]:
    """Views of ``buffer``, into which ``arrays`` were packed, with their types and shapes."""
    return {
        name: buffer[start : start + array.nbytes]
        .view(torch.from_numpy(np.empty(0, array.dtype)).dtype)
        .view(array.shape)
        for (name, array), start in zip(arrays.items(), _starts(arrays), strict=True)
    }


def _starts(arrays: Arrays) -> Iterable[int]:
    start = 0
    for array in arrays.values():
        yield start
        start += _room(array.nbytes)


def _room(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
