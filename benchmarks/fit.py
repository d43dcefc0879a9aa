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
    """Of a factor: the median for each vendor, and deviations of the logarithms of its two parts."""

    nvidia: float
    amd: float
    vendor: float
    part: float
    software: bool = True


# Medians: operators of SGLang 0.5.14 on H200 (expert weights at 0.8 to 0.9 of the bandwidth, latents at 0.93,
# all-reduce of 16 rows 8 us and of 1024 rows at 0.6 of the links, 13 kernels a layer of 5 to 12 us where
# bytes explain 1 to 3); MI300X: triad 0.79 of peak, best FP8 product 0.44, RCCL at 0.7 of the links for large
# messages and tens of us for small ones. The rest is judgement, made by people who had seen the rows.
PRIORS: Mapping[str, Prior] = {
    "memory": Prior(0.85, 0.6, 0.15, 0.1, software=False),
    "attention": Prior(0.9, 0.6, 0.2, 0.15, software=False),
    "link": Prior(0.6, 0.6, 0.15, 0.1, software=False),
    "hop_us": Prior(6.0, 15.0, 0.3, 0.15, software=False),
    "gemm": Prior(0.4, 0.25, 0.3, 0.2),
    "passes": Prior(2.5, 4.0, 0.6, 0.4),
    "layer_us": Prior(100.0, 230.0, 0.3, 0.15),
    "eager_us": Prior(1200.0, 1800.0, 0.4, 0.2),
    "row_us": Prior(5.0, 5.0, 0.5, 0.2),
    "step_us": Prior(300.0, 300.0, 0.5, 0.2),
    "request_ms": Prior(120.0, 180.0, 0.3, 0.2),
}
# Medians of a part other than 1. TensorRT-LLM against SGLang in the operator times on H200, experts in tp8:
# 46 us more at 16 tokens, and 0.5 us more for each further token. CDNA4 has no rows: half as many I/O dies as
# CDNA3 to cross, a higher clock, and libraries tuned for it first, so that a step should gain at least what
# the bandwidth does. That is a judgement, and its interval is wide.
PARTS: Mapping[Key, float] = {
    ("layer_us", "trtllm@hopper"): 1.45,
    ("passes", "trtllm@hopper"): 2.0,
    ("memory", "cdna4"): 1.1,
    ("hop_us", "cdna4"): 0.8,
    ("layer_us", "cdna4"): 0.7,
    ("eager_us", "cdna4"): 0.8,
    ("passes", "cdna4"): 0.85,
}
SHARES = ("memory", "attention", "gemm", "link")
TILES = {"nvidia": 16, "amd": 32}
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


def rows() -> list[Row]:
    """Those of the package's data."""
    with PUBLISHED.open(newline="") as file:
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
    return PRIORS[key[0]].vendor if key[1] in TILES else PRIORS[key[0]].part


def touches(key: Key, row: Row) -> bool:
    return key in keys_of(row)


def predict(row: Row, factors: Factors) -> tuple[float, float]:
    """Mean (TPOT, TTFT) in ms."""
    policy = policy_of(profiles.split_engine(row.engine)[0], find_server(row.server).device.architecture)
    setting = Setting(
        DEEPSEEK, find_server(row.server), parse_layout(row.layout), find_recipe(row.weights), row.kv
    )
    seen = run(row.load, policy, StepTime(setting, factors).seconds, factors.request_ms / 1e3)
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
        slopes = np.zeros((len(now), len(keys)))
        for column, key in enumerate(keys):
            moved = {**values, key: values[key] * math.exp(STEP)}
            slopes[:, column] = (_errors(chosen, moved, now, key) - now) / STEP
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


def _errors(
    chosen: Sequence[Row], values: Values, known: Vector | None = None, key: Key | None = None
) -> Vector:
    """TPOT's and TTFT's error of every row, in turn; rows that ``key`` does not touch stay as ``known``."""
    found = np.zeros(2 * len(chosen)) if known is None else known.copy()
    for place, row in enumerate(chosen):
        if key is None or touches(key, row):
            found[2 * place : 2 * place + 2] = errors(row, values)
    return found


def _weights(standard: Vector) -> Vector:
    """Huber's: a row far off pulls no harder than one at 2 deviations."""
    return np.minimum(1.0, 2.0 / np.maximum(np.abs(standard), 1e-9))


def _robust(standard: Vector) -> float:
    size = np.abs(standard)
    return float(np.sum(np.where(size < 2, size**2, 4 * size - 4)))
