"""A small checkpoint to break, and tools to break it with."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from fullbore.model.checkpoint import INDEX, Checkpoint
from fullbore.model.config import load_config
from fullbore.model.make_checkpoint import config_fields, make_checkpoint

SMALL = (
    "vocab_size=300", "hidden_size=160", "intermediate_size=144", "moe_intermediate_size=48",
    "n_routed_experts=4", "n_group=2", "topk_group=1", "num_experts_per_tok=2", "num_hidden_layers=2",
    "num_attention_heads=2", "num_key_value_heads=2", "q_lora_rank=40", "kv_lora_rank=32",
)  # fmt: skip
ATTENTION = "model.layers.0.self_attn"
EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"
FIRST = "model.embed_tokens.weight"
MTP = "model.layers.2"
SINGLE = "model.safetensors"


def write_small(
    folder: Path, *changes: str, shard_bytes: int = 1 << 30, seed: int = 0, format: str = "fp8"
) -> Path:
    """A checkpoint of 2 layers and an MTP layer, every kind of tensor in it, blocks ragged."""
    make_checkpoint(folder, config_fields("tiny", [*SMALL, *changes], format), seed, shard_bytes)
    return folder


def copy(folder: Path, to: Path) -> Path:
    return shutil.copytree(folder, to, dirs_exist_ok=True)


def open_small(folder: Path) -> Checkpoint:
    return Checkpoint.open(folder, load_config(folder))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Rewrites a single-file checkpoint as ``change`` leaves its tensors."""
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def edit_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrites a file's header, leaving its data as it is."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header = change(header) or header
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def edit_index(folder: Path, change: Callable[[dict[str, str]], Any]) -> None:
    edit_json(folder / INDEX, lambda index: change(index["weight_map"]))
