"""What the published ``config.json`` of a DeepSeek-V3 model says, checked field by field.

Every field is honoured, known to be without effect on inference, or refused by name. A field that nobody
knows is refused when it is set to something (``use_some_norm: true`` would otherwise give wrong answers
without a word), and passes when it is null, false, 0 or empty, which is how tools write features that a
model does not use. Both spellings of the rotary embedding are read: ``rope_theta`` with ``rope_scaling`` as
published, and ``rope_parameters`` as transformers 5 saves it. No code that a checkpoint names is ever run:
``auto_map`` is ignored, since the architecture is known here.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullbore.errors import ConfigError
from fullbore.model.fields import Fields
from fullbore.model.files import file_in, read_object

# What transformers, training code and other tools note in the file without effect on inference.
_BOOKKEEPING = """
    architectures auto_map transformers_version torch_dtype dtype use_cache initializer_range pretraining_tp
    aux_loss_alpha aux_loss_coef router_aux_loss_coef seq_aux output_router_logits attention_dropout
    pad_token_id sep_token_id decoder_start_token_id name_or_path task_specific_params problem_type
    id2label label2id num_labels finetuning_task return_dict return_dict_in_generate output_attentions
    output_hidden_states output_scores chunk_size_feed_forward is_decoder is_encoder_decoder
    cross_attention_hidden_size add_cross_attention tie_encoder_decoder pruned_heads prefix tokenizer_class
    torchscript tf_legacy_loss use_bfloat16 keys_to_ignore_at_inference attn_implementation
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature
    top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size bad_words_ids
    encoder_no_repeat_ngram_size num_return_sequences exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens forced_bos_token_id forced_eos_token_id remove_invalid_values
    unsloth_fixed unsloth_version model_max_length
"""
HARMLESS = frozenset(_BOOKKEEPING.split())
ROPE_HARMLESS = frozenset({"finetuned"})
QUANT_HARMLESS = frozenset({"modules_to_not_convert", "ignored_layers", "dequantize"})
# Of all layers together. The 671B model has 14,848; a misprint must not fill the memory with tensor names.
_MOST_EXPERTS = 1 << 20


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding, plain (``factor`` 1) or stretched by YaRN (arXiv 2309.00071, section 3)."""

    theta: float
    factor: float = 1.0
    original_max_position_embeddings: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    attention_factor: float | None = None

    @property
    def cos_sin_scale(self) -> float:
        """The factor on cos and sin; 1 wherever ``mscale`` equals ``mscale_all_dim`` (as in V3 and R1).

        As transformers has it: with one of the two absent or 0, the paper's 0.1 ln(factor) + 1.
        """
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return _yarn_mscale(self.factor, self.mscale) / _yarn_mscale(self.factor, self.mscale_all_dim)
        return _yarn_mscale(self.factor, 1.0)

    @property
    def softmax_scale(self) -> float:
        """The factor on the attention scores beside 1 / sqrt(qk_head_dim)."""
        return _yarn_mscale(self.factor, self.mscale_all_dim) ** 2


def _yarn_mscale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1.0 else 1.0


@dataclass(frozen=True)
class ModelConfig:
    """The network's sizes; names as in ``config.json``. Made by ``load_config`` or ``parse_config``."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    first_k_dense_replace: int  # this many layers at the start have a dense feed-forward
    intermediate_size: int
    moe_intermediate_size: int
    num_attention_heads: int
    q_lora_rank: int | None  # None: queries come from one matrix, q_proj
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    n_routed_experts: int
    n_shared_experts: int
    num_experts_per_tok: int
    n_group: int
    topk_group: int
    norm_topk_prob: bool
    routed_scaling_factor: float
    num_nextn_predict_layers: int  # what the config states; whether a checkpoint has them is its own matter
    rms_norm_eps: float
    rope: RopeConfig
    max_position_embeddings: int
    tie_word_embeddings: bool
    attention_bias: bool  # always false: biases are refused
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    quantised: bool  # linear weights may be e4m3 with one factor per 128 x 128 block

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def latent_dim(self) -> int:
        """Values that the cache keeps per token and layer."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def softmax_scale(self) -> float:
        """What attention scores are multiplied by."""
        return self.rope.softmax_scale / math.sqrt(self.qk_head_dim)

    def is_moe(self, layer: int) -> bool:
        return layer >= self.first_k_dense_replace


def load_config(folder: Path) -> ModelConfig:
    """Reads ``config.json``, and ``generation_config.json`` for further end tokens where it exists.

    Raises ConfigError, naming file, field, value and what was expected.
    """
    path = file_in(folder, "config.json")
    if not path.exists():
        raise ConfigError(f"{folder} has no config.json; it is no checkpoint, or the download is incomplete")
    config = parse_config(read_object(path), str(path))
    generation = file_in(folder, "generation_config.json")
    if not generation.exists():
        return config
    extra = _token_ids(Fields(read_object(generation), str(generation)), "eos_token_id", config.vocab_size)
    return dataclasses.replace(config, eos_token_ids=tuple(dict.fromkeys(config.eos_token_ids + extra)))


def parse_config(values: dict[str, Any], where: str = "config.json") -> ModelConfig:
    """A ModelConfig from the object in ``config.json``; ``where`` names it in messages."""
    f = Fields(values, where)
    _refuse_other_architectures(f, values)
    heads = f.integer("num_attention_heads", most=1 << 16)
    rope_dim = f.integer("qk_rope_head_dim", least=2)
    if rope_dim % 2:
        raise f.error("qk_rope_head_dim", "an even number")
    nope_dim = f.integer("qk_nope_head_dim")
    f.agrees("num_key_value_heads", heads, "num_attention_heads")  # latent attention has a key for each head
    f.agrees("head_dim", rope_dim, "qk_rope_head_dim")  # what transformers means by it
    f.agrees("qk_head_dim", nope_dim + rope_dim, "qk_nope_head_dim + qk_rope_head_dim")
    vocab = f.integer("vocab_size")
    position_limit = f.integer("max_position_embeddings")
    mtp_layers = f.integer("num_nextn_predict_layers", 0, least=0, most=64)
    f.agrees("num_mtp_layers", mtp_layers, "num_nextn_predict_layers")
    config = ModelConfig(
        vocab_size=vocab,
        hidden_size=f.integer("hidden_size"),
        num_hidden_layers=f.integer("num_hidden_layers", most=10_000),
        first_k_dense_replace=f.integer("first_k_dense_replace", least=0),
        intermediate_size=f.integer("intermediate_size"),
        moe_intermediate_size=f.integer("moe_intermediate_size"),
        num_attention_heads=heads,
        q_lora_rank=None if f.any("q_lora_rank") is None else f.integer("q_lora_rank"),
        kv_lora_rank=f.integer("kv_lora_rank"),
        qk_nope_head_dim=nope_dim,
        qk_rope_head_dim=rope_dim,
        v_head_dim=f.integer("v_head_dim"),
        **_experts(f),
        norm_topk_prob=f.boolean("norm_topk_prob", True),
        routed_scaling_factor=f.number("routed_scaling_factor"),
        num_nextn_predict_layers=mtp_layers,
        rms_norm_eps=f.number("rms_norm_eps", 1e-6),
        rope=_rope(f, where, position_limit),
        max_position_embeddings=position_limit,
        tie_word_embeddings=f.boolean("tie_word_embeddings", False),
        attention_bias=f.only("attention_bias", (False,), False),
        bos_token_id=f.integer("bos_token_id", least=0) if f.any("bos_token_id", None) is not None else None,
        eos_token_ids=tuple(dict.fromkeys(_token_ids(f, "eos_token_id", vocab))),
        quantised=_quantised(f, where),
    )
    if config.bos_token_id is not None and config.bos_token_id >= vocab:
        raise f.error("bos_token_id", f"a token id below vocab_size ({vocab})")
    if config.num_hidden_layers * config.n_routed_experts > _MOST_EXPERTS:
        raise f.error(
            "n_routed_experts", f"at most {_MOST_EXPERTS // config.num_hidden_layers} for so many layers"
        )
    f.refuse_unknown(HARMLESS)
    return config


def _refuse_other_architectures(f: Fields, values: dict[str, Any]) -> None:
    if values.get("model_type") != "deepseek_v3":
        raise f.error("model_type", "'deepseek_v3' (the only architecture this program runs)")
    f.any("model_type")
    names = values.get("architectures") or ["DeepseekV3ForCausalLM"]
    if names != ["DeepseekV3ForCausalLM"]:
        raise f.error("architectures", "['DeepseekV3ForCausalLM']")
    f.only("topk_method", ("noaux_tc",), "noaux_tc")  # transformers 5 leaves these two out
    f.only("scoring_func", ("sigmoid",), "sigmoid")
    f.only("hidden_act", ("silu",), "silu")
    f.only("moe_layer_freq", (1,), 1)
    f.only("ep_size", (1,), 1)
    f.only("rope_interleave", (True,), True)
    f.only("is_causal", (True,), True)


def _experts(f: Fields) -> dict[str, int]:
    """Expert counts, and that the groups can supply as many experts as a token needs."""
    experts = f.integer("n_routed_experts", most=1 << 16)
    f.agrees("num_local_experts", experts, "n_routed_experts")
    groups = f.integer("n_group")
    if experts % groups or experts // groups < 2:
        raise f.error("n_group", f"a divisor of n_routed_experts ({experts}) with 2 or more experts a group")
    kept = f.integer("topk_group", most=groups)
    return {
        "n_routed_experts": experts,
        "n_shared_experts": f.integer("n_shared_experts", 0, least=0, most=1 << 16),
        "num_experts_per_tok": f.integer("num_experts_per_tok", most=kept * (experts // groups)),
        "n_group": groups,
        "topk_group": kept,
    }


def _rope(f: Fields, where: str, position_limit: int) -> RopeConfig:
    published, saved = f.object("rope_scaling"), f.object("rope_parameters")
    if published and saved and published != {k: saved.get(k) for k in published}:
        raise f.error("rope_scaling", f"what rope_parameters says, {saved}")
    inner = Fields(saved or published or {}, f"{where}: {'rope_parameters' if saved else 'rope_scaling'}")
    # Above 1, or frequencies would not fall from pair to pair; YaRN divides by its logarithm.
    theta = inner.number("rope_theta", f.number("rope_theta", 10000.0, least=1.0), least=1.0)
    f.agrees("rope_theta", theta, "the field of that name inside")
    kind = inner.only("rope_type" if inner.has("rope_type") else "type", ("default", "yarn"), "default")
    inner.agrees("type", kind, "rope_type")
    inner.only("partial_rotary_factor", (1, 1.0), 1.0)
    if kind == "default":
        inner.only("factor", (1, 1.0), 1.0)
        for unused in (
            "original_max_position_embeddings",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
        ):
            inner.any(unused, None)
        inner.refuse_unknown(ROPE_HARMLESS)
        return RopeConfig(theta=theta)
    inner.only("truncate", (True,), True)
    attention_factor = inner.number("attention_factor") if inner.has("attention_factor") else None
    rope = RopeConfig(
        theta=theta,
        factor=inner.number("factor", least=1.0, positive=False),
        original_max_position_embeddings=inner.integer("original_max_position_embeddings", position_limit),
        beta_fast=inner.number("beta_fast", 32.0),
        beta_slow=inner.number("beta_slow", 1.0),
        mscale=inner.number("mscale", 0.0, positive=False),
        mscale_all_dim=inner.number("mscale_all_dim", 0.0, positive=False),
        attention_factor=attention_factor,
    )
    inner.refuse_unknown(ROPE_HARMLESS)
    return rope


def _quantised(f: Fields, where: str) -> bool:
    """Whether there is a ``quantization_config``; anything but 128 x 128 blocks of e4m3 is refused."""
    values = f.object("quantization_config")
    if values is None:
        return False
    inner = Fields(values, f"{where}: quantization_config")
    inner.only("quant_method", ("fp8",))
    inner.only("fmt", ("e4m3", "float8_e4m3fn"), "e4m3")
    inner.only("activation_scheme", ("dynamic",), "dynamic")
    inner.only("weight_block_size", ([128, 128],))
    inner.only("scale_fmt", ("float", "ue8m0"), "float")  # ue8m0 concerns how activations are rounded
    inner.only("expert_dtype", ("fp8",), "fp8")
    inner.refuse_unknown(QUANT_HARMLESS)
    return True


def _token_ids(f: Fields, name: str, vocab: int) -> tuple[int, ...]:
    """A token id, a list of them, or null."""
    value = f.any(name, None)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one < vocab for one in ids):
        raise f.error(name, f"a token id or a list of token ids, each below vocab_size ({vocab})")
    return tuple(ids)
