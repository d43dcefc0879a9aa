"""The link model: how long devices take to exchange data, from latency, size and topology.

One-shot: every device reads all others' data. Two-shot: a reduce-scatter, then a gather. Ring: the same
amount of data in 2 (n - 1) hops. The fastest is taken, as libraries do.
"""

from dataclasses import dataclass

# Both sockets' links lie between the devices and each transfer crosses the host's memory twice.
_PCIE_SHARE = 0.5
_PCIE_HOP = 4.0  # latencies, against a link between devices


@dataclass(frozen=True)
class Links:
    """bytes_s: what each of the ``devices`` sends at once, over all its links. hop_s: one exchange."""

    devices: int
    topology: str  # mesh, switch or pcie
    bytes_s: float
    hop_s: float

    def all_reduce_s(self, size: float) -> float:
        """Of ``size`` bytes on every device."""
        n = self.devices
        if n == 1:
            return 0.0
        peers = n - 1
        if self.topology == "pcie":
            # No peer access: two-shot through the host, whose memory all devices share.
            return 2 * _PCIE_HOP * self.hop_s + 2 * peers / n * size / (self.bytes_s * _PCIE_SHARE)
        one_shot = self.hop_s + peers * size / self.bytes_s
        two_shot = 2 * self.hop_s + 2 * peers / n * size / self.bytes_s
        ring = 2 * peers * self.hop_s + 2 * peers / n * size / self.bytes_s
        return min(one_shot, two_shot, ring)

    def gather_s(self, size: float) -> float:
        """All-gather or reduce-scatter; ``size``: bytes of all devices together."""
        n = self.devices
        return 0.0 if n == 1 else self._hop() + (n - 1) / n * size / self._rate()

    def exchange_s(self, size: float) -> float:
        """All-to-all; ``size``: bytes that each device holds for all of them."""
        n = self.devices
        return 0.0 if n == 1 else self._hop() + (n - 1) / n * size / self._rate()

    def _hop(self) -> float:
        return self.hop_s * (_PCIE_HOP if self.topology == "pcie" else 1.0)

    def _rate(self) -> float:
        return self.bytes_s * (_PCIE_SHARE if self.topology == "pcie" else 1.0)
