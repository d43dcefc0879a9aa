"""A device whose launches cost time, and that can keep them in a graph: on the CPU, by a clock of its own."""

from collections.abc import Callable

from fullbore.tune.graphs import NotCaptured


class FakeStream:
    """``LAUNCH_S`` passes for each launch from the host, none within a graph."""

    LAUNCH_S = 10e-6

    def __init__(self) -> None:
        self.time_s = 0.0
        self.captures = 0
        self._graph: list[tuple[Callable[[], None], float]] | None = None

    def clock(self) -> float:
        return self.time_s

    def launch(self, work: Callable[[], None], seconds: float) -> None:
        """``work`` on the device, now or when the graph is replayed."""
        if self._graph is None:
            self.time_s += self.LAUNCH_S
            self._do(work, seconds)
        else:
            self._graph.append((work, seconds))

    def wait(self) -> None:
        """For all that was launched, as ``.item()`` does."""
        if self._graph is not None:
            raise NotCaptured("it cannot be captured in a graph: operation not permitted while capturing")

    def capture(self, run: Callable[[], object]) -> Callable[[], object]:
        self.captures += 1
        self._graph = graph = []
        try:
            run()
        finally:
            self._graph = None
        return lambda: [self._do(*each) for each in graph]

    def seconds(self, run: Callable[[], object]) -> float:
        begin = self.time_s
        run()
        return self.time_s - begin

    def _do(self, work: Callable[[], None], seconds: float) -> None:
        self.time_s += seconds
        work()
