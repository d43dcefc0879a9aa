"""The trained network as a published checkpoint: FP8 blocks, the published names, two shards and an index."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fullbore.ops.formats import BLOCK, dequantise_fp8_block, quantise_fp8_block
from fullbore.train.network import DemoNetwork

_STACKED = ("experts.gate_up_proj", "experts.down_proj")


def config_fields(network: DemoNetwork) -> dict[str, object]:
    """config.json as DeepSeek publishes it."""
    config = network.main.config
    same = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "moe_intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "n_shared_experts",
        "n_routed_experts",
        "routed_scaling_factor",
        "kv_lora_rank",
        "q_lora_rank",
        "qk_rope_head_dim",
        "v_head_dim",
        "qk_nope_head_dim",
        "n_group",
        "topk_group",
        "num_experts_per_tok",
        "first_k_dense_replace",
        "norm_topk_prob",
        "hidden_act",
        "max_position_embeddings",
        "initializer_range",
        "rms_norm_eps",
        "use_cache",
        "num_nextn_predict_layers",
        "tie_word_embeddings",
        "attention_bias",
        "attention_dropout",
        "bos_token_id",
        "eos_token_id",
    ]
    rope = config.rope_parameters
    scaling = [
        "beta_fast",
        "beta_slow",
        "factor",
        "mscale",
        "mscale_all_dim",
        "original_max_position_embeddings",
    ]
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        **{name: getattr(config, name) for name in same},
        "ep_size": 1,
        "moe_layer_freq": 1,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16",
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "yarn", **{name: rope[name] for name in scaling}},
        "quantization_config": {
            "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
            "weight_block_size": [BLOCK, BLOCK],
        },
    }  # fmt: skip


def published_name(name: str, layers: int) -> str:
    """A parameter's name in the published files; the MTP layer comes after the last of ``layers``."""
    name = name.removeprefix("main.")
    if name.startswith("mtp."):
        rest = name.removeprefix("mtp.").removeprefix("layer.")
        rest = "shared_head.norm.weight" if rest == "norm.weight" else rest
        return f"model.layers.{layers}.{rest}"
    return name


def is_fp8(name: str) -> bool:
    """Whether it is stored in FP8: the projections of attention, MLPs and experts, not eh_proj."""
    return "_proj" in name and "eh_proj" not in name


def matrices(network: DemoNetwork) -> Iterator[tuple[str, Tensor]]:
    """All tensors under their published names, stacked experts taken apart."""
    layers = network.main.config.num_hidden_layers
    for own_name, weight in [*network.named_parameters(), *_biases(network)]:
        name = published_name(own_name, layers)
        if not name.endswith(_STACKED):
            yield name, weight.detach()
            continue
        stem = name.rpartition(".")[0]
        for expert, matrix in enumerate(weight.detach()):
            if name.endswith("gate_up_proj"):
                gate, up = matrix.chunk(2)
                yield f"{stem}.{expert}.gate_proj.weight", gate
                yield f"{stem}.{expert}.up_proj.weight", up
            else:
                yield f"{stem}.{expert}.down_proj.weight", matrix
    yield f"model.layers.{layers}.embed_tokens.weight", network.main.model.embed_tokens.weight.detach()
    yield f"model.layers.{layers}.shared_head.head.weight", network.main.lm_head.weight.detach()


def _biases(network: DemoNetwork) -> list[tuple[str, Tensor]]:
    return [
        (name, bias) for name, bias in network.named_buffers() if name.endswith("e_score_correction_bias")
    ]


def stored_tensors(network: DemoNetwork) -> dict[str, Tensor]:
    """What goes into the files: FP8 with ``weight_scale_inv``, bf16, and the correction bias in float32."""
    stored: dict[str, Tensor] = {}
    for name, weight in matrices(network):
        if is_fp8(name):
            packed = quantise_fp8_block(weight)
            stored[name] = packed.data
            if packed.scale is not None:
                stored[f"{name}_scale_inv"] = packed.scale
        else:
            float32 = name.endswith("e_score_correction_bias")
            stored[name] = weight.to(torch.float32 if float32 else torch.bfloat16).clone()
    return stored


def write_weights(network: DemoNetwork, folder: Path, shards: int = 2) -> None:
    """config.json, generation_config.json, ``shards`` safetensors files and their index."""
    stored = stored_tensors(network)
    total = sum(tensor.nbytes for tensor in stored.values())
    where: dict[str, str] = {}
    parts: list[dict[str, Tensor]] = [{} for _ in range(shards)]
    seen = 0
    for name, tensor in stored.items():
        part = min(seen * shards // total, shards - 1)
        parts[part][name] = tensor
        where[name] = f"model-{part + 1:05}-of-{shards:06}.safetensors"
        seen += tensor.nbytes
    for part, tensors in enumerate(parts):
        path = folder / f"model-{part + 1:05}-of-{shards:06}.safetensors"
        save_file(tensors, path, {"format": "pt"})
        path.chmod(0o644)  # save_file leaves it readable by its owner alone
    _write_json(
        folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where}
    )
    fields = config_fields(network)
    _write_json(folder / "config.json", fields)
    generation = {
        "_from_model_config": True, "bos_token_id": fields["bos_token_id"],
        "eos_token_id": fields["eos_token_id"],
        "do_sample": False,
    }  # fmt: skip
    _write_json(folder / "generation_config.json", generation)


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The checkpoint's tensors by published name, dequantised to float32."""
    index = json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))["weight_map"]
    stored: dict[str, Tensor] = {}
    for file in sorted(set(index.values())):
        stored |= load_file(folder / file)
    whole: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if not name.endswith("_scale_inv"):
            scale = stored.get(f"{name}_scale_inv")
            whole[name] = (
                tensor.float() if scale is None else dequantise_fp8_block(tensor, scale, torch.float32)
            )
    return whole


@torch.no_grad()
def fill(network: DemoNetwork, weights: dict[str, Tensor]) -> None:
    """Copy published tensors into ``network`` (the MTP layer's copies aside); KeyError names a lack."""
    own = {
        published_name(n, network.main.config.num_hidden_layers): w
        for n, w in [*network.named_parameters(), *_biases(network)]
    }
    for name, target in own.items():
        if name.endswith(_STACKED):
            stem = name.rpartition(".")[0]
            for expert in range(len(target)):
                if name.endswith("gate_up_proj"):
                    halves = [weights[f"{stem}.{expert}.{half}_proj.weight"] for half in ("gate", "up")]
                    target[expert] = torch.cat(halves)
                else:
                    target[expert] = weights[f"{stem}.{expert}.down_proj.weight"]
        else:
            target.copy_(weights[name])


def as_stored(weight: Tensor, parts: int = 1) -> Tensor:
    """[..., rows, columns] -> what FP8 storage leaves of it; rows are ``parts`` matrices (gate, up: 2)."""
    rows, columns = weight.shape[-2] // parts, weight.shape[-1]
    x = weight.reshape(-1, rows, columns)
    down, across = -(-rows // BLOCK), -(-columns // BLOCK)
    padded = torch.zeros(len(x), down * BLOCK, across * BLOCK)
    padded[:, :rows, :columns] = x
    blocks = padded.view(len(x), down, BLOCK, across, BLOCK)
    scale = blocks.abs().amax(dim=(2, 4), keepdim=True).clamp_min(1e-12) / 448.0
    rounded = (blocks / scale).to(torch.float8_e4m3fn).float() * scale
    return rounded.reshape(padded.shape)[:, :rows, :columns].reshape(weight.shape)


@contextmanager
def stored_values(network: nn.Module) -> Iterator[None]:
    """Inside, every parameter has the value that storage leaves of it; gradients then act on the full values.

    This is quantisation-aware training with a straight-through estimate.
    """
    full = {weight: weight.data for weight in network.parameters()}
    for name, weight in network.named_parameters():
        fp8 = is_fp8(name)
        weight.data = (
            as_stored(weight.data, 2 if "gate_up" in name else 1) if fp8 else weight.data.bfloat16().float()
        )
    try:
        yield
    finally:
        for weight, data in full.items():
            weight.data = data
