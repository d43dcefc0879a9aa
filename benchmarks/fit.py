"""Fit the step-time model's factors to published results; ``python -m benchmarks.judge`` runs it.

A factor is a product of two parts: the vendor's, whose prior has a reason, and one that is near 1 but where
said. What hardware decides (bandwidths, latencies of links) has a part for each architecture, what software
decides one for each engine on an architecture. So parts move only as far as rows demand, and what has no rows
keeps its vendor's. Means of TPOT and TTFT of every row are compared as logarithms of their ratio. Maximum a
posteriori by Gauss-Newton; Huber's weights keep one odd row from deciding.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fullbore.hardware.servers import find_server
from fullbore.model.config import parse_config
from fullbore.model.presets import PRESETS
from fullbore.parallel.layout import parse_layout
from fullbore.plan.closed_loop import Load, run
from fullbore.steptime import profiles
from fullbore.steptime.factors import Factors
from fullbore.steptime.model import Setting, StepTime
from fullbore.steptime.network import find_recipe
from fullbore.steptime.profiles import policy_of

DEEPSEEK = parse_config(dict(PRESETS["deepseek-v3"]))
PUBLISHED = Path(profiles.__file__).with_name("published.csv")
LENGTH_RANGE = 0.8

Key = tuple[str, str]  # a factor's name and whose it is: ("memory", "amd"), ("memory", "cdna3"), ...
Values = dict[Key, float]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Prior:
    """Of a factor: the median for each vendor, and deviations of the logarithms of its two parts.

    amd_wider: times both, for AMD, none of whose operators was timed.
    """

    nvidia: float
    amd: float
    vendor: float
    part: float
    software: bool = True
    amd_wider: float = 1.0


# Medians: operators of SGLang 0.5.14 on H200 (expert weights at 0.8 to 0.9 of the bandwidth, latents at 0.93,
# all-reduce of 16 rows 8 us and of 1024 rows at 0.6 of the links, 13 kernels a layer of 5 to 12 us where
# bytes explain 1 to 3, dense products of 8192 tokens at 0.45 to 0.6 of the peak, routed experts at 0.13: the
# geometric mean over 256, 1024 and 8192 tokens; in FP4 on B200 0.13 at 8192); first waves in published
# percentiles (0.9 to 1.8 s late on H200, 2.1 to 2.7 on MI355X in 2025); MI300X: triad 0.79 of peak, best FP8
# product 0.44, RCCL at 0.7 of the links for large messages and tens of us for small ones. The rest is
# judgement, made by people who had seen the rows.
PRIORS: Mapping[str, Prior] = {
    "memory": Prior(0.85, 0.6, 0.15, 0.1, software=False),
    "attention": Prior(0.9, 0.5, 0.1, 0.1, software=False, amd_wider=4.0),
    "link": Prior(0.6, 0.6, 0.15, 0.1, software=False),
    "hop_us": Prior(6.0, 15.0, 0.3, 0.15, software=False),
    "gemm": Prior(0.45, 0.25, 0.2, 0.15),
    "experts": Prior(0.13, 0.12, 0.2, 0.3),
    "fp4": Prior(0.13, 0.1, 0.2, 0.2),
    "passes": Prior(2.5, 4.0, 0.15, 0.1),
    "layer_us": Prior(100.0, 230.0, 0.3, 0.15),
    "eager_us": Prior(1200.0, 1800.0, 0.4, 0.2),
    "row_us": Prior(5.0, 5.0, 0.5, 0.2),
    "step_us": Prior(300.0, 300.0, 0.5, 0.2),
    "request_ms": Prior(25.0, 25.0, 0.4, 0.2),
    "cold_ms": Prior(1000.0, 2500.0, 0.6, 0.4),
}
# Medians of a part other than 1. TensorRT-LLM against SGLang in the operator times on H200, experts in tp8:
# 46 us more at 16 tokens, and 0.36 of the arithmetic. On B200, SGLang's experts reach 0.07 of the peak; its
# launch script compiles no products at first use, as that of H200 does. CDNA4 has no rows: half as many I/O
# dies as CDNA3 to cross, a higher clock, and libraries tuned for it first, so that a step should gain
# at least what the bandwidth does. That is a judgement, and its interval is wide.
PARTS: Mapping[Key, float] = {
    ("layer_us", "trtllm@hopper"): 1.45,
    ("experts", "trtllm@hopper"): 0.36,
    ("experts", "blackwell"): 0.53,
    ("cold_ms", "blackwell"): 0.4,
    ("memory", "cdna4"): 1.1,
    ("hop_us", "cdna4"): 0.8,
    ("layer_us", "cdna4"): 0.7,
    ("eager_us", "cdna4"): 0.8,
    ("passes", "cdna4"): 0.85,
}
SHARES = ("memory", "attention", "gemm", "experts", "fp4", "link")
TILES = {"nvidia": 8, "amd": 32}
# How far one row may lie from a perfect model: noise of a run, and what the model leaves out.
ROW_TPOT, ROW_TTFT = 0.05, 0.15
STEP = 0.04  # of a logarithm, for slopes: wide enough that the loop's discreteness is small beside it


@dataclass(frozen=True)
class Row:
    """One published operating point."""

    id: str
    server: str
    engine: str
    load: Load
    weights: str
    kv: str
    layout: str
    ttft_ms: float
    tpot_ms: float

    @property
    def group(self) -> str:
        return f"{self.server} {self.engine.split('@')[0]}"


def rows(path: Path = PUBLISHED) -> list[Row]:
    """Those that factors are fitted to, or another file's with the same columns."""
    with path.open(newline="") as file:
        return [
            Row(
                r["id"],
                r["server"],
                r["engine"],
                Load(
                    int(r["input"]), int(r["output"]), LENGTH_RANGE, int(r["concurrency"]), int(r["requests"])
                ),
                r["weights"],
                r["kv"],
                r["layout"],
                float(r["ttft_ms"]),
                float(r["tpot_ms"]),
            )
            for r in csv.DictReader(file)
        ]


def part(name: str, architecture: str, engine: str) -> Key:
    """Which part of a factor belongs to an engine on an architecture."""
    return name, f"{engine}@{architecture}" if PRIORS[name].software else architecture


def median(key: Key) -> float:
    """Of a part before any row: what is said of the engine there, or of the architecture."""
    name, whose = key
    return PARTS.get(key, PARTS.get((name, whose.rpartition("@")[2]), 1.0))


def compose(values: Values, vendor: str, architecture: str, engine: str) -> Factors:
    """Factors of an engine on an architecture."""
    product = {}
    for name in PRIORS:
        key = part(name, architecture, engine)
        value = values[name, vendor] * values.get(key, median(key))
        product[name] = min(1.0, value) if name in SHARES else value
    return Factors(**product, tile=TILES[vendor])


def keys_of(row: Row) -> list[Key]:
    """The values that a row's prediction is made of."""
    device, engine = find_server(row.server).device, row.engine.split("@")[0]
    parts = [part(name, device.architecture, engine) for name in PRIORS]
    return [*((name, device.vendor) for name in PRIORS), *parts]


def start(chosen: Sequence[Row]) -> Values:
    """The priors' medians, for whatever the rows have to do with, and for both vendors."""
    values: Values = {}
    for name, prior in PRIORS.items():
        values[name, "nvidia"], values[name, "amd"] = prior.nvidia, prior.amd
    for row in chosen:
        values |= {key: median(key) for key in keys_of(row) if key not in values}
    return values


def deviation(key: Key) -> float:
    """Of a value's logarithm, before any row."""
    name, whose = key
    prior, amd = PRIORS[name], whose == "amd" or whose.rpartition("@")[2].startswith("cdna")
    return (prior.vendor if whose in TILES else prior.part) * (prior.amd_wider if amd else 1.0)


def touches(key: Key, row: Row) -> bool:
    return key in keys_of(row)


def predict(row: Row, factors: Factors) -> tuple[float, float]:
    """Mean (TPOT, TTFT) in ms."""
    policy = policy_of(profiles.split_engine(row.engine)[0], find_server(row.server).device.architecture)
    setting = Setting(
        DEEPSEEK, find_server(row.server), parse_layout(row.layout), find_recipe(row.weights), row.kv
    )
    seen = run(
        row.load,
        policy.over(setting.layout.dp),
        StepTime(setting, factors).seconds,
        factors.request_ms / 1e3,
        cold_s=factors.cold_ms / 1e3,
    )
    return float(np.mean(seen.tpot_s)) * 1e3, float(np.mean(seen.ttft_s)) * 1e3


def errors(row: Row, values: Values) -> tuple[float, float]:
    """ln(truth / prediction) of TPOT and of TTFT."""
    device = find_server(row.server).device
    tpot_ms, ttft_ms = predict(
        row, compose(values, device.vendor, device.architecture, row.engine.split("@")[0])
    )
    return math.log(row.tpot_ms / tpot_ms), math.log(row.ttft_ms / ttft_ms)


def fit(chosen: Sequence[Row], begin: Values, rounds: int) -> Values:
    """The most probable values, from ``begin``: damped Gauss-Newton on the rows' errors and the priors."""
    prior = start(chosen)
    keys = [key for key in prior if any(touches(key, row) for row in chosen)]
    values = {key: begin.get(key, median) for key, median in prior.items()}
    scale = np.array([1 / ROW_TPOT, 1 / ROW_TTFT] * len(chosen))
    stiffness = np.array([deviation(key) ** -2 for key in keys])

    def away(at: Values) -> Vector:
        return np.array([math.log(at[key] / prior[key]) for key in keys])

    def objective(found: Vector, at: Values) -> float:
        return _robust(found * scale) + float(stiffness @ away(at) ** 2)

    now = _errors(chosen, values)
    for _ in range(rounds):
        slopes = _slopes(chosen, values, now, keys)
        weight = _weights(now * scale) * scale**2
        curvature = slopes.T * weight @ slopes + np.diag(stiffness)
        move = -np.linalg.solve(curvature, slopes.T @ (weight * now) + stiffness * away(values))
        for size in (1.0, 0.5, 0.25):
            moves = zip(keys, move, strict=True)
            trial = {**values, **{key: values[key] * math.exp(size * amount) for key, amount in moves}}
            found = _errors(chosen, trial)
            if objective(found, trial) < objective(now, values):
                values, now = trial, found
                break
        else:
            break
    return values


def _errors(chosen: Sequence[Row], values: Values) -> Vector:
    """TPOT's and TTFT's error of every row, in turn."""
    return np.array([error for row in chosen for error in errors(row, values)])


def _slopes(chosen: Sequence[Row], values: Values, now: Vector, keys: Sequence[Key]) -> Vector:
    """Of the errors, by the logarithms of ``keys``: a factor's two parts have the same slope, and each row
    has one of either, so one look at every factor is enough."""
    slopes = np.zeros((len(now), len(keys)))
    for name in PRIORS:
        moved = {
            key: value * math.exp(STEP if key[0] == name and key[1] in TILES else 0.0)
            for key, value in values.items()
        }
        slope = (_errors(chosen, moved) - now) / STEP
        for column, key in enumerate(keys):
            if key[0] == name:
                slopes[:, column] = slope * np.repeat([touches(key, row) for row in chosen], 2)
    return slopes


def _weights(standard: Vector) -> Vector:
    """Huber's: a row far off pulls no harder than one at 2 deviations."""
    return np.minimum(1.0, 2.0 / np.maximum(np.abs(standard), 1e-9))


def _robust(standard: Vector) -> float:
    size = np.abs(standard)
    return float(np.sum(np.where(size < 2, size**2, 4 * size - 4)))
