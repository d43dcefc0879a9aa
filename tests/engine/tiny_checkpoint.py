"""A checkpoint of random weights, small enough that a step takes milliseconds. It likes to end with ``EOS``
no more than with any other token, and repeats itself little.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from fullbore.model.config import load_config
from fullbore.model.specs import tensor_specs

CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "vocab_size": 300,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "intermediate_size": 64,
    "moe_intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "q_lora_rank": None,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "num_nextn_predict_layers": 0,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 299,
}
VOCAB, EOS = 300, 299


def write_checkpoint(folder: Path, damaged: str = "") -> Path:
    """``damaged``: the name of a tensor that gets one value that is no number."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, spec in tensor_specs(load_config(folder)).items():
        if spec.kind == "norm":
            tensors[name] = torch.ones(spec.shape)
        else:
            spread = 0.1 if spec.kind == "bias" else spec.shape[-1] ** -0.5
            tensors[name] = spread * torch.randn(spec.shape, generator=generator)
        if spec.kind != "bias":
            tensors[name] = tensors[name].bfloat16()
        if name == damaged:
            tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder
