"""What an engine on a kind of device makes of the roofline: a few factors, each with a physical meaning."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Factors:
    """memory, attention: share of the peak bandwidth reached when weights, or cached latents, are read.
    gemm: share of the dense peak reached by large products; experts: by those of the routed experts, with
    permuting, activations and weighted sums around them; fp4: the same in FP4, whose scales the units know
    by themselves. link: share of the link's bandwidth.
    passes: how often activations go through memory, over the least count.
    layer_us: time of a layer's kernels that no byte and no product explains (launches, ramps, small kernels).
    eager_us: host time a layer, where a step is not replayed from a graph. hop_us: latency of an exchange.
    row_us: host time for each sampled row. step_us: host time of each step.
    request_ms: a request's time outside of all steps (HTTP, tokeniser, queues between processes, client).
    cold_ms: what a step of several prompts takes longer while a server has run none such before (kernels
    compiled or chosen for a new shape, memory asked for): the first wave of a benchmark pays it.
    tile: rows that an expert's tile is padded to.
    """

    memory: float
    attention: float
    gemm: float
    experts: float
    fp4: float
    link: float
    passes: float
    layer_us: float
    eager_us: float
    hop_us: float
    row_us: float
    step_us: float
    request_ms: float
    cold_ms: float
    tile: int


@dataclass(frozen=True)
class Deviation:
    """Standard deviations of the logarithm of truth over prediction."""

    step: float  # time of a step, hence TPOT and throughput
    ttft: float

    def combined(self, other: "Deviation") -> "Deviation":
        """Of both errors together, when they are independent."""
        return Deviation(math.hypot(self.step, other.step), math.hypot(self.ttft, other.ttft))


NO_DEVIATION = Deviation(0.0, 0.0)
