"""What one rank of a server computes in a step: operators at the shapes that the rank holds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.layers import Layer, MetaSource
from fullbore.errors import UsageError
from fullbore.hardware.ceiling import Ceiling
from fullbore.hardware.device import INTERPRETER
from fullbore.model.config import ModelConfig, parse_config
from fullbore.model.make_checkpoint import config_fields
from fullbore.model.workload import workload
from fullbore.ops.contract import Cost, Job
from fullbore.ops.demand import step_shape, subject
from fullbore.ops.operators import OPERATORS

LAYOUTS = ("tp8", "ep8dp8")
DEVICES = 8
DTYPE = "bfloat16"


@dataclass(frozen=True)
class Part:
    """An operator of a rank. ``calls``: in a step. ``split``: into how many groups a step's tokens are
    divided before it, 8 for data-parallel attention."""

    name: str
    layer: Layer
    calls: int
    split: int = 1

    def tokens(self, batch: int) -> int:
        """That one call sees of a step of the server."""
        return -(-batch // self.split)

    def cost(self, tokens: int, context: int) -> Cost:
        """Of one call."""
        job, operator = self.layer.job, OPERATORS[self.layer.job.operator]
        shape = step_shape(operator, subject(job, self.layer.sizes), tokens, context)
        return operator.cost(shape, job.format, job.dtype)

    def floor_us(self, ceiling: Ceiling, tokens: int, context: int) -> float:
        """No kernel takes less; weights in FP8 may be multiplied by activations in FP8."""
        cost = self.cost(tokens, context)
        return ceiling.floor_us(cost.flops, cost.bytes, self.arithmetic)

    @property
    def arithmetic(self) -> str:
        """The fastest that its products may be made in."""
        return "fp8" if self.layer.job.format == "fp8_block" else DTYPE


def parts(model: str, layout: str) -> list[Part]:
    """Of ``model``, a preset or a config.json; a model of one device has the layout ``tp1``."""
    fields = {**config_fields(model), "num_nextn_predict_layers": 0}
    if layout == "tp1":
        return list(_parts(model, _config(fields, 1), 1, 1, 1))
    if layout == "tp8":
        return list(_parts(model, _config(fields, DEVICES), 1, 1, DEVICES))
    if layout == "ep8dp8":
        return list(_parts(model, _config(fields, 1), DEVICES, DEVICES, DEVICES))
    raise UsageError(f"--layouts {layout} is not known; use some of {', '.join(LAYOUTS)}")


def _config(fields: Mapping[str, Any], cut: int) -> ModelConfig:
    """With heads and widths of one of ``cut`` devices that share every matrix."""
    names = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "moe_intermediate_size")
    uneven = {name: fields[name] for name in names if fields[name] % cut}
    if uneven:
        raise UsageError(
            f"{uneven} cannot be cut in {cut} equal parts; use --layouts tp1 or another --config"
        )
    return parse_config({**fields, **{name: fields[name] // cut for name in names}}, "the rank")


def _parts(model: str, config: ModelConfig, dp: int, ep: int, devices: int) -> Iterator[Part]:
    # Recorded only, for kernels of GPUs: no GPU is needed.
    work = workload(config, MetaSource(config), DTYPE, device=INTERPRETER)
    calls: dict[Job, int] = {}
    for group, count in work.groups.items():
        for job in group:
            calls[job] = calls.get(job, 0) + count
    for job, count in calls.items():
        name = _name(job, config)
        shape = dict(job.shape)
        layer = Layer(model, job, work.sizes)
        if name in ("head", "embed", "greedy"):
            key = "vocab" if name == "greedy" else "out"
            vocab = -(-config.vocab_size // devices)
            yield Part(name, _shaped(layer, {**shape, key: vocab}), count)
        elif name == "experts" and ep > 1:
            # Each of the experts' devices sees all tokens, and of each token's choices an eighth.
            k = max(1, work.sizes["k"] // ep)
            local = _shaped(layer, {**shape, "experts": shape["experts"] // ep, "shared": 0})
            yield Part(name, replace(local, sizes={**work.sizes, "k": k}), count)
            if shape["shared"]:
                own = Job("swiglu", _sorted(hidden=shape["hidden"], inter=shape["shared"]), *_kind(job))
                yield Part("shared", Layer(model, own, work.sizes), count, dp)
        else:
            yield Part(name, layer, count, dp)


def _kind(job: Job) -> tuple[str, str, str]:
    return job.format, job.dtype, job.device


def _sorted(**shape: int) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(shape.items()))


def _shaped(layer: Layer, shape: Mapping[str, int]) -> Layer:
    return replace(layer, job=replace(layer.job, shape=_sorted(**shape)))


def _name(job: Job, config: ModelConfig) -> str:
    """What people call it."""
    names = {"moe_ffn": "experts", "swiglu": "dense", "route": "router", "mla_decode": "attention"}
    if job.operator != "linear":
        return names.get(job.operator, job.operator)
    shape = dict(job.shape)
    if shape["out"] == config.vocab_size:
        return "head"
    if shape["in"] == config.q_lora_rank:
        return "q_b"
    if shape["in"] == config.num_attention_heads * config.v_head_dim and shape["out"] == config.hidden_size:
        return "o"
    return "qkv_a"
