"""Which tensors a DeepSeek-V3 checkpoint has: names, shapes, and how each may be stored.

Everything that needs to know (reading, checking, writing, counting) takes it from ``tensor_specs``.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from fullbore.model.config import ModelConfig

BLOCK = 128
SCALE_SUFFIX = "_scale_inv"  # of a weight's name; the factor multiplies, whatever the name says


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of the published format.

    kind: ``linear`` (may be FP8 with scales), ``matrix`` (embedding, head, router, MTP's eh_proj: never FP8),
    ``norm`` or ``bias`` (vectors). An optional tensor repeats another one or holds nothing.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    optional: bool = False

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def scale_name(self) -> str:
        return self.name + SCALE_SUFFIX

    @property
    def scale_shape(self) -> tuple[int, int]:
        """Of a matrix's 128 x 128 blocks; those at the lower and right edge may be smaller."""
        rows, columns = self.shape
        return -(-rows // BLOCK), -(-columns // BLOCK)


def tensor_specs(config: ModelConfig) -> dict[str, TensorSpec]:
    """Every tensor of the model by name, MTP layers at the end; scales are not listed, they follow."""
    specs = [*_main(config)]
    for layer in mtp_layers(config):
        specs += _mtp(config, layer)
    return {spec.name: spec for spec in specs}


def mtp_layers(config: ModelConfig) -> range:
    """Layer numbers of the multi-token prediction layers that the config states."""
    return range(config.num_hidden_layers, config.num_hidden_layers + config.num_nextn_predict_layers)


def is_mtp(config: ModelConfig, name: str) -> bool:
    """Whether a tensor of this name belongs to a multi-token prediction layer."""
    layer = layer_of(name)
    return layer is not None and layer >= config.num_hidden_layers


def layer_of(name: str) -> int | None:
    """The number in ``model.layers.3.mlp...``; None where a name has none."""
    parts = name.split(".")
    numbered = parts[:2] == ["model", "layers"] and len(parts) > 2
    if numbered and parts[2].isascii() and parts[2].isdigit() and len(parts[2]) < 9:
        return int(parts[2])
    return None


@dataclass(frozen=True)
class Parameters:
    """How many numbers a model has, factors of FP8 blocks and copies not counted."""

    main: int
    active: int  # of the main model, per token: everything but the experts that the token does not visit
    mtp: int


def count_parameters(config: ModelConfig) -> Parameters:
    """Of the model that ``config`` describes; the embedding and the head are counted as active."""
    main = mtp = experts = 0
    for name, spec in tensor_specs(config).items():
        if spec.optional:
            continue
        if is_mtp(config, name):
            mtp += spec.elements
        else:
            main += spec.elements
            experts += spec.elements if ".mlp.experts." in name else 0
    idle = experts // config.n_routed_experts * (config.n_routed_experts - config.num_experts_per_tok)
    return Parameters(main, main - idle, mtp)


def _main(config: ModelConfig) -> Iterator[TensorSpec]:
    vocabulary = (config.vocab_size, config.hidden_size)
    yield TensorSpec("model.embed_tokens.weight", vocabulary, "matrix")
    for layer in range(config.num_hidden_layers):
        yield from _layer(config, layer)
    yield TensorSpec("model.norm.weight", (config.hidden_size,), "norm")
    # A tied head may be written nevertheless; it is then a copy of the embedding.
    yield TensorSpec("lm_head.weight", vocabulary, "matrix", optional=config.tie_word_embeddings)


def _mtp(config: ModelConfig, layer: int) -> Iterator[TensorSpec]:
    """Multi-token prediction (DeepSeek-V3 report, section 2.2): a layer of its own, and what feeds it."""
    prefix, hidden = f"model.layers.{layer}", config.hidden_size
    vocabulary = (config.vocab_size, hidden)
    yield TensorSpec(f"{prefix}.embed_tokens.weight", vocabulary, "matrix", optional=True)
    yield TensorSpec(f"{prefix}.enorm.weight", (hidden,), "norm")
    yield TensorSpec(f"{prefix}.hnorm.weight", (hidden,), "norm")
    yield TensorSpec(f"{prefix}.eh_proj.weight", (hidden, 2 * hidden), "matrix")
    yield from _layer(config, layer)
    yield TensorSpec(f"{prefix}.shared_head.norm.weight", (hidden,), "norm")
    yield TensorSpec(f"{prefix}.shared_head.head.weight", vocabulary, "matrix", optional=True)


def _layer(config: ModelConfig, layer: int) -> Iterator[TensorSpec]:
    prefix, hidden = f"model.layers.{layer}", config.hidden_size
    yield TensorSpec(f"{prefix}.input_layernorm.weight", (hidden,), "norm")
    yield from _attention(config, f"{prefix}.self_attn")
    yield TensorSpec(f"{prefix}.post_attention_layernorm.weight", (hidden,), "norm")
    if not config.is_moe(layer):
        yield from _feed_forward(f"{prefix}.mlp", hidden, config.intermediate_size)
        return
    yield TensorSpec(f"{prefix}.mlp.gate.weight", (config.n_routed_experts, hidden), "matrix")
    yield TensorSpec(f"{prefix}.mlp.gate.e_score_correction_bias", (config.n_routed_experts,), "bias")
    for expert in range(config.n_routed_experts):
        yield from _feed_forward(f"{prefix}.mlp.experts.{expert}", hidden, config.moe_intermediate_size)
    shared = config.moe_intermediate_size * config.n_shared_experts
    yield from _feed_forward(f"{prefix}.mlp.shared_experts", hidden, shared)


def _attention(config: ModelConfig, prefix: str) -> Iterator[TensorSpec]:
    hidden, heads = config.hidden_size, config.num_attention_heads
    queries = heads * config.qk_head_dim
    if config.q_lora_rank is None:
        yield TensorSpec(f"{prefix}.q_proj.weight", (queries, hidden), "linear")
    else:
        yield TensorSpec(f"{prefix}.q_a_proj.weight", (config.q_lora_rank, hidden), "linear")
        yield TensorSpec(f"{prefix}.q_a_layernorm.weight", (config.q_lora_rank,), "norm")
        yield TensorSpec(f"{prefix}.q_b_proj.weight", (queries, config.q_lora_rank), "linear")
    yield TensorSpec(f"{prefix}.kv_a_proj_with_mqa.weight", (config.latent_dim, hidden), "linear")
    yield TensorSpec(f"{prefix}.kv_a_layernorm.weight", (config.kv_lora_rank,), "norm")
    keys_and_values = heads * (config.qk_nope_head_dim + config.v_head_dim)
    yield TensorSpec(f"{prefix}.kv_b_proj.weight", (keys_and_values, config.kv_lora_rank), "linear")
    yield TensorSpec(f"{prefix}.o_proj.weight", (hidden, heads * config.v_head_dim), "linear")


def _feed_forward(prefix: str, hidden: int, inner: int) -> Iterator[TensorSpec]:
    """SwiGLU. With no shared expert ``inner`` is 0, and some tools write empty tensors: optional then."""
    empty = inner == 0
    yield TensorSpec(f"{prefix}.gate_proj.weight", (inner, hidden), "linear", empty)
    yield TensorSpec(f"{prefix}.up_proj.weight", (inner, hidden), "linear", empty)
    yield TensorSpec(f"{prefix}.down_proj.weight", (hidden, inner), "linear", empty)
