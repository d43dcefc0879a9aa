"""What one decode step must read from memory, and must multiply: the floor under its time on any device.

Counted from the tensors of the published format; no kernel, no cache and no link between devices is in it, so
a real step takes longer.
"""

from dataclasses import dataclass
from functools import cache

from fullbore.model.config import ModelConfig
from fullbore.model.specs import TensorSpec, is_mtp, tensor_specs

_BYTES = {"linear": 2, "matrix": 2, "norm": 2, "bias": 4}  # of an element; a linear of an FP8 model has 1
_FACTOR_BYTES = 4
# Tensor parallelism cuts heads, experts and inner widths; these have none, so every device reads them whole.
_WHOLE = ("q_a_proj", "kv_a_proj_with_mqa", "mlp.gate.", "norm")


@dataclass(frozen=True)
class StepTraffic:
    """Of one step with ``batch`` decodes, in bytes and FLOP of the whole server."""

    batch: int
    context: int  # tokens that a decode attends to, on average
    experts_touched: float  # of a layer, expected
    split_weight_bytes: float  # read once, each device its own part
    whole_weight_bytes: float  # read by every device under tensor parallelism
    latent_bytes: float  # the cache of all decodes, read by every device under tensor parallelism
    flop: float  # products of activations with weights; attention's own are left out

    @property
    def total_bytes(self) -> float:
        """With nothing read twice: no layout over devices reads less."""
        return self.split_weight_bytes + self.whole_weight_bytes + self.latent_bytes

    def device_bytes(self, devices: int) -> float:
        """What each of ``devices`` reads under tensor parallelism: latents and small matrices are copies."""
        return self.split_weight_bytes / devices + self.whole_weight_bytes + self.latent_bytes


def step_traffic(config: ModelConfig, batch: int, context: int, cache_value_bytes: int = 2) -> StepTraffic:
    """Of one step of the main model. Tokens are taken to choose experts alike and independently.

    Then each of E experts is missed by all of ``batch`` tokens, which visit k of them, with (1 - k/E)^batch.
    """
    weights = _weights(config)
    chosen = config.num_experts_per_tok / config.n_routed_experts
    touched = 1 - (1 - chosen) ** batch
    return StepTraffic(
        batch=batch,
        context=context,
        experts_touched=touched * config.n_routed_experts,
        split_weight_bytes=weights.split_bytes + touched * weights.routed_bytes,
        whole_weight_bytes=weights.whole_bytes,
        latent_bytes=batch * context * config.num_hidden_layers * config.latent_dim * cache_value_bytes,
        flop=2.0 * batch * (weights.elements + chosen * weights.routed_elements),
    )


@dataclass
class _Weights:
    """Sums over the tensors that a step reads; ``routed``: of all routed experts."""

    split_bytes: int = 0
    whole_bytes: int = 0
    routed_bytes: int = 0
    elements: int = 0  # of matrices
    routed_elements: int = 0


@cache
def _weights(config: ModelConfig) -> _Weights:
    sums = _Weights()
    for name, spec in tensor_specs(config).items():
        if is_mtp(config, name) or not _is_read(config, name, spec):
            continue
        size = _stored_bytes(config, spec)
        elements = spec.elements if spec.kind in ("linear", "matrix") else 0
        if ".mlp.experts." in name:
            sums.routed_bytes += size
            sums.routed_elements += elements
            continue
        sums.elements += elements
        if any(part in name for part in _WHOLE):
            sums.whole_bytes += size
        else:
            sums.split_bytes += size
    return sums


def _is_read(config: ModelConfig, name: str, spec: TensorSpec) -> bool:
    """A step looks up a few rows of the embedding; only where it is the head too is it read whole."""
    if name == "model.embed_tokens.weight":
        return config.tie_word_embeddings
    return not spec.optional


def _stored_bytes(config: ModelConfig, spec: TensorSpec) -> int:
    if spec.kind == "linear" and config.quantised:
        rows, columns = spec.scale_shape
        return spec.elements + rows * columns * _FACTOR_BYTES
    return spec.elements * _BYTES[spec.kind]
