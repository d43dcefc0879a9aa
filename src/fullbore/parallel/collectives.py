"""The link model: how long devices take to exchange data, from latency, size and topology.

One-shot: every device reads all others' data. Two-shot: a reduce-scatter, then a gather. Ring: the same
amount of data in 2 (n - 1) hops. In the switch: it adds what devices send, and each sends its data once. The
fastest is taken, as libraries do. Across nodes each device's own network card carries its part.
"""

from dataclasses import dataclass, replace

# Both sockets' links lie between the devices and each transfer crosses the host's memory twice.
_PCIE_SHARE = 0.5
_PCIE_HOP = 4.0  # latencies, against a link between devices
# Between nodes: one card of 400 Gbit/s for each device, as servers of eight are built; a judgement, as no
# published row that is fitted spans two.
_NETWORK_BYTES_S, _NETWORK_HOP = 50e9, 5.0
_MESH = 8  # devices of a full mesh, whose links are counted together


@dataclass(frozen=True)
class Links:
    """bytes_s: what each of the ``devices`` sends at once, over all its links. hop_s: one exchange.

    topology: mesh (of eight, so that fewer devices use fewer links), switch, sharp (a switch that adds) or
    pcie. node: devices that these links join; further ones are reached over the network.
    """

    devices: int
    topology: str
    bytes_s: float
    hop_s: float
    node: int = _MESH

    def all_reduce_s(self, size: float) -> float:
        """Of ``size`` bytes on every device."""
        n = self.devices
        if n == 1:
            return 0.0
        if n > self.node:
            inside = replace(self, devices=self.node).all_reduce_s(size)
            nodes = -(-n // self.node)
            between = 2 * (nodes - 1) / nodes * size / self.node / _NETWORK_BYTES_S
            return inside + 2 * _NETWORK_HOP * self.hop_s + between
        peers, rate = n - 1, self._rate()
        if self.topology == "pcie":
            # No peer access: two-shot through the host, whose memory all devices share.
            return 2 * self._hop() + 2 * peers / n * size / rate
        one_shot = self.hop_s + peers * size / rate
        two_shot = 2 * self.hop_s + 2 * peers / n * size / rate
        ring = 2 * peers * self.hop_s + 2 * peers / n * size / rate
        in_switch = 2 * self.hop_s + size / rate if self.topology == "sharp" else two_shot
        return min(one_shot, two_shot, ring, in_switch)

    def gather_s(self, size: float) -> float:
        """All-gather or reduce-scatter; ``size``: bytes of all devices together."""
        n = self.devices
        if n <= self.node:
            return 0.0 if n == 1 else self._hop() + (n - 1) / n * size / self._rate()
        inside = replace(self, devices=self.node).gather_s(size)
        return inside + _NETWORK_HOP * self.hop_s + self._beyond() * size / self.node / _NETWORK_BYTES_S

    def exchange_s(self, size: float) -> float:
        """All-to-all; ``size``: bytes that each device holds for all of them."""
        n = self.devices
        if n <= self.node:
            return 0.0 if n == 1 else self._hop() + (n - 1) / n * size / self._rate()
        inside = replace(self, devices=self.node).exchange_s(size * self.node / n)
        return inside + _NETWORK_HOP * self.hop_s + self._beyond() * size / _NETWORK_BYTES_S

    def _beyond(self) -> float:
        """Share of all devices that lie in other nodes."""
        return (self.devices - self.node) / self.devices

    def _hop(self) -> float:
        return self.hop_s * (_PCIE_HOP if self.topology == "pcie" else 1.0)

    def _rate(self) -> float:
        if self.topology == "mesh":
            return self.bytes_s * min(1.0, (self.devices - 1) / (_MESH - 1))
        return self.bytes_s * (_PCIE_SHARE if self.topology == "pcie" else 1.0)
