"""Times of the C++ ``linear`` and ``moe_ffn`` at real layer shapes, each beside the ceilings of its moment.

    python benchmarks/cpu_gemm.py [--shape bench|full] [--format fp8_block] [--dtype bfloat16] [--tokens 1 8]

Weights are larger than the last cache and every call draws its experts anew. Bandwidth and arithmetic peak
are probed before and after each row, since a machine of two minutes ago may be another one.
"""

import argparse
import ctypes
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from fullbore.kernels.cpu.kernel import I, P
from fullbore.kernels.cpu.linear import CpuLinear
from fullbore.kernels.cpu.moe import CpuMoeFfn
from fullbore.kernels.cpu.native import native
from fullbore.ops.contract import DTYPES, Cost, Shape
from fullbore.ops.ffn import Expert
from fullbore.ops.formats import Weight, quantise_fp8_block
from fullbore.ops.linear import LINEAR
from fullbore.ops.moe import MOE_FFN

SHAPES = {
    "bench": {"experts": 64, "k": 6, "hidden": 1024, "inter": 512},
    "full": {"experts": 32, "k": 8, "hidden": 7168, "inter": 2048},
}
PROBE_BYTES = 1 << 30


@dataclass(frozen=True)
class Ceilings:
    """GB/s of a streaming read; GFLOP/s in registers."""

    read: float
    peak: float


class Probe:
    def __init__(self, dtype: str) -> None:
        self.here = native()
        self.memory = torch.ones(PROBE_BYTES, dtype=torch.uint8)
        self.is_bf16 = int(dtype == "bfloat16")
        self._read, self._peak = self.here.lib["fb_read_probe"], self.here.lib["fb_peak_probe"]
        self._read.argtypes, self._peak.argtypes = (P, P, I), (P, I)
        self._read.restype = self._peak.restype = ctypes.c_double

    def __call__(self) -> Ceilings:
        read = self._read(self.here.pool, self.memory.data_ptr(), PROBE_BYTES)
        return Ceilings(read, self._peak(self.here.pool, self.is_bf16) or self._peak(self.here.pool, 0))


def timed(calls: Sequence[Callable[[], Tensor]], budget_s: float = 1.5) -> float:
    """Median seconds of a call; they take turns."""
    calls[0]()
    times: list[float] = []
    end = time.perf_counter() + budget_s
    for call in itertools.cycle(calls):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
        if len(times) >= 5 and time.perf_counter() >= end:
            return statistics.median(times)
    raise AssertionError("calls never end")


@dataclass(frozen=True)
class Meter:
    """Times calls and prints a line for each, with the ceilings around it."""

    probe: Probe

    def __call__(self, name: str, tokens: int, cost: Cost, calls: Sequence[Callable[[], Tensor]]) -> None:
        before = self.probe()
        seconds = timed(calls)
        after = self.probe()
        read, peak = (before.read + after.read) / 2, (before.peak + after.peak) / 2
        rate, work = cost.bytes / seconds / 1e9, cost.flops / seconds / 1e9
        print(
            f"{name:8}{tokens:5} {seconds * 1e6:9.0f} us"
            f"  {rate:6.1f} GB/s of {before.read:5.1f} {after.read:5.1f} = {rate / read:4.0%}"
            f"  {work:6.0f} GFLOP/s of {before.peak:5.0f} {after.peak:5.0f} = {work / peak:4.0%}"
        )


def weight(out: int, in_: int, format: str) -> Weight:
    matrix = (torch.randn(out, in_) * in_**-0.5).bfloat16()
    return quantise_fp8_block(matrix) if format == "fp8_block" else Weight(matrix)


def experts_of(shape: Shape, format: str) -> list[Expert]:
    """A few drawn, many packed: the values do not matter, their number does."""
    inter, hidden = shape["inter"], shape["hidden"]
    few = [
        (*(weight(inter, hidden, format) for _ in range(2)), weight(hidden, inter, format)) for _ in range(2)
    ]
    return [few[index % 2] for index in range(shape["experts"])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="bench")
    parser.add_argument("--format", default="fp8_block")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 4, 8, 16, 64, 256])
    args = parser.parse_args()
    shape, g, dtype = SHAPES[args.shape], Generator().manual_seed(1), DTYPES[args.dtype]
    meter = Meter(Probe(args.dtype))
    here = meter.probe.here
    print(f"{args.format} {args.dtype} on {here.isa}, {here.threads} threads, {dict(shape)}")
    xs = {tokens: torch.randn(tokens, shape["hidden"], generator=g).to(dtype) for tokens in args.tokens}

    moe = CpuMoeFfn(args.dtype)
    stored = experts_of(shape, args.format)
    begin = time.perf_counter()
    experts = moe.pack(stored)
    print(f"packed {experts.memory.nbytes / 1e9:.2f} GB in {time.perf_counter() - begin:.2f} s")
    for tokens, x in xs.items():
        liking = torch.rand(16, tokens, shape["experts"], generator=g)
        draws = liking.topk(shape["k"]).indices
        scores = torch.rand(tokens, shape["k"], generator=g)
        touched = round(statistics.mean(len(ids.unique()) for ids in draws))
        cost = MOE_FFN.cost({**shape, "tokens": tokens, "touched": touched}, args.format, args.dtype)
        meter("moe_ffn", tokens, cost, [partial(moe.run, experts, x, ids, scores) for ids in draws])
    del experts

    linear = CpuLinear(args.dtype)
    sizes = {"out": 2 * shape["inter"], "in": shape["hidden"]}
    one = weight(sizes["out"], sizes["in"], args.format)
    matrices = [linear.pack(one) for _ in range(max(2, (200 << 20) // one.data.numel()))]
    for tokens, x in xs.items():
        cost = LINEAR.cost({**sizes, "tokens": tokens}, args.format, args.dtype)
        meter("linear", tokens, cost, [partial(linear.run, matrix, x) for matrix in matrices])


if __name__ == "__main__":
    main()
