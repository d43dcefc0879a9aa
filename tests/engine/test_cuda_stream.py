"""The stream of a GPU: what it makes of errors, and on a GPU itself, what it copies and captures."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from fullbore.engine.cuda import CudaStream
from fullbore.hardware.device import DeviceLostError

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def fail(words: str) -> Callable[[], None]:
    def work() -> None:
        raise RuntimeError(words)

    return work


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> CudaStream:
    """Made without a GPU."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    return CudaStream("cpu")


def test_an_error_of_the_work_alone_stays_what_it_is(
    stream: CudaStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    with pytest.raises(RuntimeError, match=r"^a shape is wrong$"):
        stream.run(fail("a shape is wrong"))


def test_a_device_that_answers_nothing_after_an_error_is_lost(
    stream: CudaStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Event:
        def record(self) -> None: ...

        def synchronize(self) -> None:
            raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", fail("an illegal memory access was encountered"))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    with pytest.raises(DeviceLostError, match=r"illegal memory access.*start a new engine"):
        stream.run(fail("an illegal memory access was encountered"))
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        stream.record().wait()


@on_a_gpu
def test_what_crosses_and_what_is_captured() -> None:
    stream = CudaStream("cuda")
    arrays = {"a": np.arange(5), "b": np.ones((2, 3), dtype=np.float32)}
    placed = stream.to_device(arrays)
    total = torch.zeros(5, device="cuda", dtype=torch.int64)
    replay = stream.capture(partial(torch.add, total, placed["a"], out=total))
    total.zero_()
    for _ in range(3):
        stream.run(replay)
    host = stream.to_host(total)
    stream.record().wait()
    assert host.tolist() == [0, 3, 6, 9, 12]
    assert torch.equal(placed["b"].cpu(), torch.ones(2, 3))
