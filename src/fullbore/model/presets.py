"""Configurations that ``make-checkpoint`` knows by name, as they would stand in config.json."""

from collections.abc import Mapping
from typing import Any

QUANTISATION: Mapping[str, Any] = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}
_YARN = {"type": "yarn", "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}

# What all of them share: DeepSeek-V3 as published.
_COMMON: Mapping[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 163840,
    "model_type": "deepseek_v3",
    "moe_layer_freq": 1,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_nextn_predict_layers": 0,
    "quantization_config": dict(QUANTISATION),
    "rms_norm_eps": 1e-6,
    "rope_scaling": {**_YARN, "factor": 40, "original_max_position_embeddings": 4096},
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "use_cache": True,
}

_V3: Mapping[str, Any] = {
    **_COMMON,
    "first_k_dense_replace": 3,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "moe_intermediate_size": 2048,
    "n_group": 8,
    "n_routed_experts": 256,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "topk_group": 4,
    "v_head_dim": 128,
    "vocab_size": 129280,
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Seconds to write and to load; every size leaves a ragged block, every feature is on.
    "tiny": {
        **_COMMON,
        "first_k_dense_replace": 1,
        "hidden_size": 192,
        "intermediate_size": 320,
        "kv_lora_rank": 64,
        "max_position_embeddings": 4096,
        "moe_intermediate_size": 96,
        "n_group": 4,
        "n_routed_experts": 16,
        "num_attention_heads": 4,
        "num_experts_per_tok": 4,
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": 96,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16,
        "rope_scaling": {**_YARN, "factor": 4, "original_max_position_embeddings": 1024},
        "topk_group": 2,
        "v_head_dim": 32,
        "vocab_size": 512,
    },
    # 1.72 billion parameters, the shape that speed is compared at on a CPU.
    "bench-1b5": {
        **_COMMON,
        "first_k_dense_replace": 1,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "kv_lora_rank": 512,
        "moe_intermediate_size": 512,
        "n_group": 8,
        "n_routed_experts": 64,
        "num_attention_heads": 16,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 16,
        "num_key_value_heads": 16,
        "q_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "topk_group": 4,
        "v_head_dim": 128,
        "vocab_size": 32000,
    },
    # Layers as in the 671B model, one dense and one with experts: 16 GB.
    "v3-layer": {**_V3, "first_k_dense_replace": 1, "num_hidden_layers": 2, "num_nextn_predict_layers": 0},
    # DeepSeek-V3 and R1: 689 GB.
    "deepseek-v3": _V3,
}
