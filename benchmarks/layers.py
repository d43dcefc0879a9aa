"""The operators of a model at its real sizes: asked of the network itself, without a weight of it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from fullbore.model.config import ModelConfig, parse_config
from fullbore.model.make_checkpoint import config_fields
from fullbore.model.specs import tensor_specs
from fullbore.model.workload import workload
from fullbore.ops.contract import DTYPES, Job, Shape
from fullbore.ops.demand import step_shape, subject
from fullbore.ops.formats import Weight, outline
from fullbore.ops.operators import OPERATORS

MOST_VALUES = 1 << 28  # of one matrix; of a larger one (an output head) some rows are timed
DRAWN_EXPERTS = 4  # the others are copies of them: what a weight is does not show in a time
ROUND = 128


@dataclass(frozen=True)
class Layer:
    """One job of a model. ``sizes``: what inputs need besides; ``cut``: what was made smaller, in words."""

    model: str
    job: Job
    sizes: Shape
    cut: str = ""

    def describe(self) -> str:
        """``in 7168, out 1536``."""
        names = ", ".join(f"{name} {size}" for name, size in self.job.shape) or "any shape"
        return f"{names} ({self.cut})" if self.cut else names


class MetaSource:
    """Tensors of the right shapes that hold nothing."""

    total_bytes = 0

    def __init__(self, config: ModelConfig) -> None:
        self._specs = tensor_specs(config)

    def outline(self, name: str) -> Weight:
        spec = self._specs[name]
        return outline(spec.shape, "fp8_block" if spec.kind == "linear" else "bf16")

    weight = outline

    def tensor(self, name: str) -> Tensor:
        return torch.empty(self._specs[name].shape, device="meta")

    def release(self, name: str) -> None:
        """Nothing is held."""


def layers(
    model: str, operators: Iterable[str], formats: Iterable[str], dtypes: Iterable[str]
) -> Iterator[Layer]:
    """Every job of ``model`` (a preset, or a config.json) in each of the formats that its operator knows."""
    fields = config_fields(model)
    dense = fields.get("first_k_dense_replace", 0)
    # One layer with experts beside the dense ones shows every shape there is.
    fields |= {
        "num_hidden_layers": min(fields["num_hidden_layers"], dense + 1),
        "num_nextn_predict_layers": 0,
    }
    config = parse_config(fields, model)
    for dtype in dtypes:
        work = workload(config, MetaSource(config), dtype)
        for job in work.jobs:
            if job.operator not in operators:
                continue
            known = OPERATORS[job.operator].formats
            for format in ("none",) if "none" in known else [one for one in formats if one in known]:
                yield _cut(Layer(model, replace(job, format=format), work.sizes))


def fewer_experts(layer: Layer, most_bytes: int, bytes_per_value: int) -> Layer:
    """With as many experts as ``most_bytes`` hold, at ``bytes_per_value`` over all kernels together."""
    shape = dict(layer.job.shape)
    if layer.job.operator != "moe_ffn":
        return layer
    each = 3 * shape["hidden"] * shape["inter"] * bytes_per_value
    fitting = max(layer.sizes["k"], min(shape["experts"], most_bytes // each))
    return _shrunk(layer, "experts", fitting)


def draw_weights(layer: Layer, generator: Generator) -> tuple[object, ...]:
    """What ``Kernel.pack`` takes."""
    job, operator = layer.job, OPERATORS[layer.job.operator]
    fixed = subject(job, layer.sizes)
    if job.operator == "moe_ffn":
        few = {**fixed, "experts": min(fixed["experts"], DRAWN_EXPERTS), "k": 1}
        shape = step_shape(operator, few, 1, 1)
        drawn, routed = operator.draw(shape, operator.timed, job.format, DTYPES[job.dtype], generator).weights
        many = [drawn[place % routed] for place in range(fixed["experts"])]
        return [*many, *drawn[routed:]], fixed["experts"]
    shape = step_shape(operator, fixed, 1, 1)
    return operator.draw(shape, operator.timed, job.format, DTYPES[job.dtype], generator).weights


def draw_inputs(layer: Layer, tokens: int, context: int, generator: Generator) -> tuple[object, ...]:
    """What ``Kernel.run`` takes beside the packed weights."""
    job, operator = layer.job, OPERATORS[layer.job.operator]
    shape = step_shape(operator, subject(job, layer.sizes), tokens, context)
    if operator.draw_inputs is not None:
        return operator.draw_inputs(shape, operator.timed, DTYPES[job.dtype], generator)
    return operator.draw(shape, operator.timed, job.format, DTYPES[job.dtype], generator).inputs


def _cut(layer: Layer) -> Layer:
    shape = dict(layer.job.shape)
    if "out" in shape and shape["out"] * shape["in"] > MOST_VALUES:
        return _shrunk(layer, "out", MOST_VALUES // shape["in"] // ROUND * ROUND)
    return layer


def _shrunk(layer: Layer, name: str, size: int) -> Layer:
    shape = dict(layer.job.shape)
    if size == shape[name]:
        return layer
    smaller = tuple(sorted({**shape, name: size}.items()))
    return replace(layer, job=replace(layer.job, shape=smaller), cut=f"{name} cut from {shape[name]}")
