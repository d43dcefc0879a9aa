"""Times on a GPU: within a graph, as decode steps run there, and by the device's own events.

A kernel that is launched by itself is timed with its launch; a decode step is replayed from a graph, where
kernels follow each other without one. So a graph is captured of several calls, which take turns on copies of
the weights that no cache holds, and is replayed.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from fullbore.errors import FullboreError
from fullbore.tune.timing import Call, Clock, Warm

LEAST_CALLS = 16  # of a graph: events tell half a microsecond apart
WARM_UP = 3  # calls before a capture: kernels are compiled by the first, and libraries make their buffers


class NotCaptured(FullboreError):
    """What was called cannot be part of a graph: it waits for the device, or reads from it."""


class Stream(Protocol):
    """What is asked of a device."""

    def capture(self, run: Call) -> Call:
        """What replays all that ``run`` launches. NotCaptured where that cannot be."""
        ...

    def seconds(self, run: Call) -> float:
        """Between events before and after what ``run`` launches; returns when the device is done."""
        ...


class CudaStream:
    """torch's current GPU, AMD's too."""

    def capture(self, run: Call) -> Call:
        import torch

        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        try:
            with torch.cuda.graph(graph):
                run()
        except RuntimeError as error:  # torch has no narrower one for this
            torch.cuda.synchronize()
            raise NotCaptured(f"it cannot be captured in a graph: {str(error).splitlines()[0]}") from error
        replay: Call = graph.replay
        return replay

    def seconds(self, run: Call) -> float:
        import torch

        event: Any = torch.cuda.Event
        before, after = (event(enable_timing=True) for _ in range(2))
        before.record()
        run()
        after.record()
        after.synchronize()
        return float(before.elapsed_time(after)) / 1e3


@dataclass(frozen=True)
class GraphTimer:
    """Reads by replaying a graph of whole periods; by launching the calls themselves where they cannot be
    captured, which prompts need not be."""

    stream: Stream
    clock: Clock = time.perf_counter

    def now(self) -> float:
        return self.clock()

    def warm(self, call: Call, period: int) -> Warm:
        calls = period * -(-LEAST_CALLS // period)

        def run() -> None:
            for _ in range(calls):
                call()

        for _ in range(WARM_UP):
            call()
        try:
            replay: Call = self.stream.capture(run)
        except NotCaptured:
            replay = run

        def read() -> float:
            return self.stream.seconds(replay) / calls

        read()  # the first replay uploads the graph
        return Warm(read(), read)

    def steady(self) -> AbstractContextManager[Any]:
        return nullcontext()
