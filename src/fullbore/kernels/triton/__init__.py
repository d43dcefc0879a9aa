"""Kernels for GPUs in Triton: one source for NVIDIA and AMD. Registering them imports no Triton."""

from fullbore.ops.registry import Entry


def _entry(operator: str, name: str, path: str) -> Entry:
    return Entry(operator, name, f"fullbore.kernels.triton.{path}", ("cuda",))


KERNELS = (
    _entry("embed", "triton", "pointwise:TritonEmbed"),
    _entry("linear", "triton", "linear:TritonLinear"),
    _entry("linear", "triton_swapped", "linear:TritonLinearSwapped"),
    _entry("linear", "triton_w8a8", "linear:TritonLinearW8A8"),
    _entry("swiglu", "triton", "moe:TritonSwiglu"),
    _entry("swiglu", "triton_w8a8", "moe:TritonSwigluW8A8"),
    _entry("moe_ffn", "triton", "moe:TritonMoeFfn"),
    _entry("moe_ffn", "triton_w8a8", "moe:TritonMoeFfnW8A8"),
    _entry("route", "triton", "route:TritonRoute"),
    _entry("rms_norm", "triton", "pointwise:TritonRmsNorm"),
    _entry("add_rms_norm", "triton", "pointwise:TritonAddRmsNorm"),
    _entry("rope", "triton", "pointwise:TritonRope"),
    _entry("latents", "triton", "pointwise:TritonLatents"),
    _entry("greedy", "triton", "pointwise:TritonGreedy"),
    _entry("mla_decode", "triton", "attention:TritonMlaDecode"),
    _entry("mla_prefill", "triton", "attention:TritonMlaPrefill"),
    _entry("draw_experts", "triton", "collectives:TritonDrawExperts"),
    _entry("all_reduce", "triton_delay", "collectives:TritonAllReduce"),
    _entry("gather", "triton_delay", "collectives:TritonGather"),
    _entry("scatter", "triton_delay", "collectives:TritonScatter"),
    _entry("gather_columns", "triton_delay", "collectives:TritonGatherColumns"),
)
