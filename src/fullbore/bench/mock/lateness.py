"""How well the mock server keeps its own times, in a space that does not grow."""

from array import array

STEP_S = 50e-6  # the resolution of a percentile
STEPS = 4000  # up to 0.2 s; what is later counts as that
LATE_S = 1e-3


class Lateness:
    """Counts of how long after its due moment each chunk was written."""

    def __init__(self) -> None:
        self.chunks = 0
        self.late = 0  # by more than ``LATE_S``
        self._sum_s = 0.0
        self._most_s = 0.0
        self._counts = array("Q", bytes(8 * (STEPS + 1)))

    def add(self, late_s: float) -> None:
        late_s = max(0.0, late_s)
        self.chunks += 1
        self.late += late_s > LATE_S
        self._sum_s += late_s
        self._most_s = max(self._most_s, late_s)
        self._counts[min(STEPS, int(late_s / STEP_S))] += 1

    def percentile_ms(self, percent: float) -> float:
        """The upper edge of the step that holds it, but no more than the largest value; 0 without chunks."""
        rank, seen = self.chunks * percent / 100, 0
        for step, count in enumerate(self._counts):
            seen += count
            if seen and seen >= rank:
                return min((step + 1) * STEP_S, self._most_s) * 1e3
        return 0.0

    def summary(self) -> dict[str, float]:
        """In milliseconds, with the numbers of chunks written and of those that were over 1 ms late."""
        return {
            "chunks": self.chunks,
            "over_1_ms": self.late,
            "mean": self._sum_s / max(1, self.chunks) * 1e3,
            "p50": self.percentile_ms(50),
            "p99": self.percentile_ms(99),
            "most": self._most_s * 1e3,
        }
