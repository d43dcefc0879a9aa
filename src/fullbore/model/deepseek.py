"""The DeepSeek-V3 network (arXiv 2412.19437, section 2), top to bottom.

Layers are made of bound operators and say nothing about how those are computed. Activations and logits
are in the compute type, routing in float32. One device of several has some of the heads, columns, experts and
vocabulary (``share.py``), and exchanges after the operators whose outputs it has in part (``split.py``).
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fullbore.model.batch import Batch
from fullbore.model.config import ModelConfig
from fullbore.model.parts import Call, Experts, Parts, ffn_weights
from fullbore.model.rotary import Rotary
from fullbore.model.split import across_groups, all_reduced, embedded, routed, whole_vocabulary
from fullbore.ops.attention import Heads
from fullbore.ops.cache import CacheRow
from fullbore.ops.contract import DTYPES
from fullbore.ops.route import Routing
from fullbore.ops.selection import Selection

if TYPE_CHECKING:
    from fullbore.model.mtp import MultiTokenPredictor

LATENT_EPS = 1e-6  # of the norms inside attention, in the published code whatever rms_norm_eps says

Residual = tuple[Tensor, Tensor]  # the stream, and what is still to be added: both [T, hidden]
Angles = tuple[Tensor, Tensor]  # cos, sin: [T, qk_rope_head_dim / 2]


class Attention:
    """Multi-head latent attention (section 2.1.1)."""

    def __init__(self, config: ModelConfig, parts: Parts, prefix: str, row: CacheRow) -> None:
        c = config
        self.heads, self.qk_head_dim = c.num_attention_heads // parts.role.rank.layout.tp, c.qk_head_dim
        compressed = c.q_lora_rank is not None
        first = parts.weight(prefix + ("q_a_proj.weight" if compressed else "q_proj.weight"))
        kv_a = parts.weight(prefix + "kv_a_proj_with_mqa.weight")
        self.down = parts.bind("linear", first, kv_a)
        q_norm = parts.tensor(prefix + "q_a_layernorm.weight") if compressed else None
        kv_norm = parts.tensor(prefix + "kv_a_layernorm.weight")
        self.latents = parts.bind("latents", q_norm, kv_norm, LATENT_EPS, row)
        self.q_b = parts.bind("linear", parts.weight(prefix + "q_b_proj.weight")) if compressed else None
        self.rope = parts.bind("rope")
        heads = Heads(
            self.heads,
            c.qk_nope_head_dim,
            c.qk_rope_head_dim,
            c.v_head_dim,
            c.kv_lora_rank,
            c.softmax_scale,
            row.bits,
        )
        kv_b = parts.weight(prefix + "kv_b_proj.weight")
        self.decode, self.prefill = parts.bind_all(("mla_decode", "mla_prefill"), kv_b, heads)
        self.o = all_reduced(parts, parts.bind("linear", parts.weight(prefix + "o_proj.weight")))

    def __call__(self, x: Tensor, batch: Batch, angles: Angles, cache: Tensor) -> Tensor:
        """x: [T, hidden]; cache: [pages, page_size, width of a row], this layer's -> [T, hidden]."""
        down = self.down(x)  # [T, q_lora_rank or all queries, then latent + rope, shared by all heads]
        q, _ = self.latents(down, *angles, cache, batch.slots)
        q = down[:, : self.heads * self.qk_head_dim] if self.q_b is None else self.q_b(q)
        q = self.rope(q.view(-1, self.heads, self.qk_head_dim), *angles)
        if not batch.prefills:
            return self.o(self.decode(q, cache, batch.page_table, batch.contexts))  # type: ignore[no-any-return]

        rows, outputs = batch.decode_rows, []  # each [tokens, heads * v_head_dim]
        if rows:
            outputs.append(self.decode(q[:rows], cache, batch.page_table[:rows], batch.contexts[:rows]))
        for row, (start, count, first) in enumerate(batch.prefills, rows):
            outputs.append(self.prefill(q[start : start + count], cache, batch.page_table[row], first))
        return self.o(torch.cat(outputs) if len(outputs) > 1 else outputs[0])  # type: ignore[no-any-return]


class MixtureOfExperts:
    """The routed experts that are here, and the shared ones, which are a single wide one, where all tokens
    come together."""

    def __init__(self, config: ModelConfig, parts: Parts, prefix: str, index: int, shared: bool) -> None:
        c, count = config, config.n_routed_experts
        routing = Routing(
            c.num_experts_per_tok, c.n_group, c.topk_group, c.norm_topk_prob, c.routed_scaling_factor
        )
        gate = parts.tensor(prefix + "gate.weight"), parts.tensor(prefix + "gate.e_score_correction_bias")
        route = parts.bind("route", *gate, routing)
        self.route = routed(parts, route, count, c.num_experts_per_tok, index)
        here = parts.role.rank.experts(count)
        prefixes = [f"{prefix}experts.{expert}." for expert in here]
        if shared:
            prefixes.append(prefix + "shared_experts.")
        elsewhere = (here.start, count) if len(here) < count else ()
        self.experts = parts.bind("moe_ffn", Experts(parts, prefixes), len(here), *elsewhere)

    def __call__(self, x: Tensor) -> Tensor:
        """x: [T, hidden] -> [T, hidden]."""
        return self.experts(x, *self.route(x))  # type: ignore[no-any-return]


def feed_forward(config: ModelConfig, parts: Parts, prefix: str, index: int) -> Call:
    """Dense, or experts: [T, hidden] -> [T, hidden]."""
    if not config.is_moe(index):
        return all_reduced(parts, parts.bind("swiglu", *ffn_weights(parts, prefix)))
    shared = config.n_shared_experts > 0
    if parts.role.rank.layout.dp == 1:
        return all_reduced(parts, MixtureOfExperts(config, parts, prefix, index, shared))
    experts = MixtureOfExperts(config, parts, prefix, index, False)
    wide = ffn_weights(parts, prefix + "shared_experts.") if shared else ()
    return across_groups(parts, experts, all_reduced(parts, parts.bind("swiglu", *wide)) if wide else None)


class Layer:
    """Attention and feed-forward, each normalised before and added to the residual stream.

    What a part adds is added where the next one normalises, in one pass: hence two tensors go through.
    """

    def __init__(self, config: ModelConfig, parts: Parts, index: int, row: CacheRow) -> None:
        prefix = f"model.layers.{index}."
        eps = config.rms_norm_eps
        self.input_norm = parts.bind("add_rms_norm", parts.tensor(prefix + "input_layernorm.weight"), eps)
        self.attention = Attention(config, parts, prefix + "self_attn.", row)
        after = parts.tensor(prefix + "post_attention_layernorm.weight")
        self.ffn_norm = parts.bind("add_rms_norm", after, eps)
        self.ffn = feed_forward(config, parts, prefix + "mlp.", index)

    def __call__(self, x: Tensor, y: Tensor, batch: Batch, angles: Angles, cache: Tensor) -> Residual:
        """The residual stream ``x`` and what is to be added to it, ``y`` -> the same after this layer."""
        x, normal = self.input_norm(x, y)
        x, normal = self.ffn_norm(x, self.attention(normal, batch, angles, cache))
        return x, self.ffn(normal)


class DeepseekV3:
    """The main model. ``bytes``: size of its packed weights, the MTP layers' included. ``row``: a token in a
    layer's cache.

    format: that of most of its weights. conversion: what was lost where they were made of
    another one, for people; "" where they are as stored.
    """

    format: str = ""
    conversion: str = ""
    mtp: "tuple[MultiTokenPredictor, ...]" = ()
    selection: Selection  # which kernel does what, and why
    sample: Call | None = None  # the operator, where a device should draw without the host's help

    def __init__(self, config: ModelConfig, parts: Parts, dtype: str, kv_bits: int = 0) -> None:
        self.config, self.dtype, self.device = config, DTYPES[dtype], parts.device
        self.row = CacheRow(config.kv_lora_rank, config.qk_rope_head_dim, kv_bits)
        embedding = parts.weight("model.embed_tokens.weight")
        if config.tie_word_embeddings:
            self.embed, self.head = parts.bind_all(("embed", "linear"), embedding)
        else:
            self.embed = embedded(parts, parts.bind("embed", embedding))
            self.head = whole_vocabulary(parts, parts.bind("linear", parts.weight("lm_head.weight")))
        self.rotary = Rotary(config.rope, config.qk_rope_head_dim, self.device.place)
        dense = config.first_k_dense_replace
        weights_of = [parts.role.weights_of(index, dense) for index in range(config.num_hidden_layers)]
        made = {index: Layer(config, parts, index, self.row) for index in dict.fromkeys(weights_of)}
        self.layers = [made[index] for index in weights_of]
        self.norm = parts.bind("add_rms_norm", parts.tensor("model.norm.weight"), config.rms_norm_eps)
        self.greedy = parts.bind("greedy", config.vocab_size)  # logits [R, vocab] -> tokens [R]
        if self.device.kind != "cpu":
            self.sample = parts.bind("sample", config.vocab_size)
        self.bytes = parts.bytes

    def new_cache(self, pages: int, page_size: int) -> tuple[Tensor, ...]:
        """An empty cache: for each layer [pages, page_size, width of a row]."""
        place = self.device.place
        return tuple(self.row.empty(pages, page_size, self.dtype, place) for _ in self.layers)

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: tuple[Tensor, ...]) -> Tensor:
        """One step. Writes the batch's tokens into ``cache`` -> logits [R, vocab] in the compute type."""
        return self.logits(self.hidden(batch, cache)[batch.logits_at])

    @torch.inference_mode()
    def hidden(self, batch: Batch, cache: tuple[Tensor, ...]) -> Tensor:
        """The hidden state of every token after the final norm: [T, hidden]."""
        x = self.embed(batch.tokens)
        y = torch.zeros_like(x)
        angles = self.rotary(batch.positions)
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            x, y = layer(x, y, batch, angles, layer_cache)
        return self.norm(x, y)[1]  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [R, hidden] -> [R, vocab] in the compute type."""
        return self.head(hidden)  # type: ignore[no-any-return]
