"""Kernels for GPUs in Triton: one source for NVIDIA and AMD. Registering them imports no Triton.

Each class is one kernel with the sizes that fit everywhere, and a few more with others for the tuner to
choose from: the names say which. Those of one class take each other's packed weights.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from fullbore.ops.registry import Entry

Constants = Mapping[str, Any]

_DEEP: Constants = {"stages": 5, "hopper": True}  # where two stages fit it is the plain one
_WIDE: Constants = {"outputs": 128, "warps": 8, "hopper": True}
_TILES: Mapping[str, Constants] = {"": {}, "_n32": {"outputs": 32}, "_n128": _WIDE, "_s5": _DEEP}
_ROUNDED: Mapping[str, Constants] = {"": {}, "_s5": _DEEP}
_SWAPPED: Mapping[str, Constants] = {"": {}, "_n128": _WIDE, "_s5": _DEEP}
_DECODE: Mapping[str, Constants] = {
    "": {},
    "_h16": {"most_heads": 16},
    "_k16": {"most_keys": 16},
    "_spread4": {"spread": 4},
}
_PREFILL: Mapping[str, Constants] = {
    "": {},
    "_k32": {"keys": 32},
    "_q128": {"queries": 128, "warps": 8, "hopper": True},
    "_q128k128": {"queries": 128, "keys": 128, "warps": 8, "stages": 2, "hopper": True},
}


def _entries(
    operator: str, name: str, path: str, variants: Mapping[str, Constants] = {"": {}}
) -> Iterator[Entry]:
    for suffix, constants in variants.items():
        place = f"fullbore.kernels.triton.{path}"
        yield Entry(operator, name + suffix, place, ("cuda",), tuple(constants.items()))


KERNELS = (
    *_entries("embed", "triton", "pointwise:TritonEmbed"),
    *_entries("linear", "triton", "linear:TritonLinear", _TILES),
    *_entries("linear", "triton_swapped", "linear:TritonLinearSwapped", _SWAPPED),
    *_entries("linear", "triton_w8a8", "linear:TritonLinearW8A8", _ROUNDED),
    *_entries("swiglu", "triton", "moe:TritonSwiglu", _TILES),
    *_entries("swiglu", "triton_swapped", "moe:TritonSwigluSwapped", _SWAPPED),
    *_entries("swiglu", "triton_w8a8", "moe:TritonSwigluW8A8"),
    *_entries("moe_ffn", "triton", "moe:TritonMoeFfn", _TILES),
    *_entries("moe_ffn", "triton_swapped", "moe:TritonMoeFfnSwapped", _SWAPPED),
    *_entries("moe_ffn", "triton_w8a8", "moe:TritonMoeFfnW8A8"),
    *_entries("route", "triton", "route:TritonRoute"),
    *_entries("rms_norm", "triton", "pointwise:TritonRmsNorm"),
    *_entries("add_rms_norm", "triton", "pointwise:TritonAddRmsNorm"),
    *_entries("rope", "triton", "pointwise:TritonRope"),
    *_entries("latents", "triton", "pointwise:TritonLatents"),
    *_entries("greedy", "triton", "pointwise:TritonGreedy"),
    *_entries("sample", "triton", "sample:TritonSample"),
    *_entries("mla_decode", "triton", "attention:TritonMlaDecode", _DECODE),
    *_entries("mla_prefill", "triton", "attention:TritonMlaPrefill", _PREFILL),
    *_entries("draw_experts", "triton", "collectives:TritonDrawExperts"),
    *_entries("all_reduce", "triton_delay", "collectives:TritonAllReduce"),
    *_entries("gather", "triton_delay", "collectives:TritonGather"),
    *_entries("scatter", "triton_delay", "collectives:TritonScatter"),
    *_entries("gather_columns", "triton_delay", "collectives:TritonGatherColumns"),
)
