"""``fullbore inspect``: what a checkpoint holds, how large it is, and whether it is whole."""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fullbore.errors import CheckpointError
from fullbore.model.checkpoint import Checkpoint
from fullbore.model.config import ModelConfig, load_config
from fullbore.model.convert import Converted
from fullbore.model.files import file_in, read_object
from fullbore.model.locate import locate
from fullbore.model.progress import ByteBar
from fullbore.model.specs import count_parameters
from fullbore.model.verify import VerifiedFile, bytes_to_verify, verify
from fullbore.model.weights import STORED, Recipe, add_weights_flag, recipe
from fullbore.ops.cache import CacheRow

_TOKENIZER_LIMIT = 256 << 20  # bytes
_CACHES = {"fp8": 8, "bf16": 16, "fp32": 0}  # bits of a latent, in ``CacheRow``'s words


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="demo, a folder, or org/name in the Hugging Face cache (see also: fullbore inspect why)",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read everything: values, and SHA-256 sums against recorded ones",
    )
    add_weights_flag(parser.add_argument)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    folder = locate(args.model)
    checkpoint = Checkpoint.open(folder, load_config(folder))
    summary = summarise(checkpoint)
    summary["converted"] = _converted(checkpoint, recipe(args.weights))
    if not args.json:
        print("\n".join(_lines(checkpoint.config, summary)))
    if args.verify:
        with ByteBar("verifying", bytes_to_verify(checkpoint)) as bar:
            files = _shown(verify(checkpoint, bar.advance), quiet=args.json)
        summary["files"] = [asdict(file) for file in files]
    if args.json:
        print(json.dumps(summary, indent=2))
    elif args.verify:
        print(f"verified: {_plural(len(files), 'file')}, every value is finite, every factor positive")
    return 0


def summarise(checkpoint: Checkpoint) -> dict[str, Any]:
    """Counts and sizes, all in parameters, bytes or tokens as the names say."""
    config = checkpoint.config
    parameters = count_parameters(config)
    formats: dict[str, int] = {}
    for name in checkpoint.specs:
        format = checkpoint.format(name)
        formats[format] = formats.get(format, 0) + checkpoint.stored_bytes(name)
    return {
        "folder": str(checkpoint.folder),
        "model_type": "deepseek_v3",
        "parameters": parameters.main,
        "parameters_active_per_token": parameters.active,
        "parameters_mtp": parameters.mtp,
        "tensor_bytes": sum(formats.values()),
        "tensor_bytes_by_format": formats,
        "files": [
            {"name": path.name, "bytes": path.stat().st_size, "sha256": None, "recorded": ""}
            for path in checkpoint.files
        ],
        "layers": config.num_hidden_layers,
        "layers_dense": min(config.first_k_dense_replace, config.num_hidden_layers),
        "mtp_layers": config.num_nextn_predict_layers,
        "experts": config.n_routed_experts,
        "experts_per_token": config.num_experts_per_tok,
        "vocab_size": config.vocab_size,
        "tokenizer_ids": _tokenizer_ids(checkpoint.folder, config),
        "context_tokens": config.max_position_embeddings,
        "kv_bytes_per_token": {name: _cache_bytes(config, bits) for name, bits in _CACHES.items()},
    }


def _cache_bytes(config: ModelConfig, bits: int) -> int:
    """Of a token in all layers, where what is not otherwise said is float32."""
    row = CacheRow(config.kv_lora_rank, config.qk_rope_head_dim, bits)
    return config.num_hidden_layers * row.bytes("float32")


def _converted(checkpoint: Checkpoint, wanted: Recipe) -> dict[str, Any]:
    """What the model would be made of with ``--weights``: no weight is read for it."""
    source = Converted(checkpoint, checkpoint.specs, wanted)
    return {
        "weights": wanted.name,
        "bytes": source.total_bytes,
        "matrix_bytes_by_format": dict(source.formats),
    }


def _tokenizer_ids(folder: Path, config: ModelConfig) -> int | None:
    """One more than the highest id in tokenizer.json, checked against the embedding; None without."""
    path = file_in(folder, "tokenizer.json")
    if not path.exists():
        return None
    whole = read_object(path, _TOKENIZER_LIMIT, CheckpointError)
    model = whole.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = [*vocabulary.values()] if isinstance(vocabulary, dict) else []
    ids += [one.get("id") for one in whole.get("added_tokens") or [] if isinstance(one, dict)]
    if not ids or not all(isinstance(one, int) for one in ids):
        raise CheckpointError(f"{path} is no tokenizer: model.vocab holds no token ids")
    if max(ids) >= config.vocab_size:
        raise CheckpointError(
            f"{path} has the token id {max(ids)}, but the embedding has {config.vocab_size} rows "
            "(vocab_size in config.json); tokenizer and weights belong to different models"
        )
    return int(max(ids)) + 1


def _lines(config: ModelConfig, summary: dict[str, Any]) -> Iterator[str]:
    """The summary for people."""
    moe = summary["layers"] - summary["layers_dense"]
    mtp = summary["mtp_layers"]
    kv = summary["kv_bytes_per_token"]
    full = {name: _bytes(kv[name] * summary["context_tokens"]) for name in ("bf16", "fp8")}
    formats, converted = _formats(summary["tensor_bytes_by_format"]), summary["converted"]
    ids, files = summary["tokenizer_ids"], _plural(len(summary["files"]), "file")
    active = _count(summary["parameters_active_per_token"])
    table = {
        "model": summary["folder"],
        "parameters": f"{_count(summary['parameters'])}, {active} active per token"
        + (f", {_count(summary['parameters_mtp'])} more in MTP" if mtp else ""),
        "weights": f"{_bytes(summary['tensor_bytes'])} in {files}: {formats}",
        "layers": f"{summary['layers']} ({summary['layers_dense']} dense, {moe} with experts), "
        f"{_plural(mtp, 'MTP layer') if mtp else 'no MTP layer'}",
        "experts": f"{config.n_routed_experts} routed, {config.num_experts_per_tok} per token out of "
        f"{config.topk_group} of {_plural(config.n_group, 'group')}; {config.n_shared_experts} shared",
        "attention": f"{_plural(config.num_attention_heads, 'head')}, latent {config.kv_lora_rank} + "
        f"{config.qk_rope_head_dim} rotary",
        "context": f"{summary['context_tokens']:,} tokens",
        "kv cache": f"{kv['bf16']:,} bytes per token in bf16, {kv['fp8']:,} in fp8; "
        f"{full['bf16']} and {full['fp8']} for a full context",
        "tokenizer": f"{ids:,} ids for {config.vocab_size:,} rows"
        if ids
        else "none (serving needs tokenizer.json)",
    }
    if converted["weights"] != STORED:
        sizes = _formats(converted["matrix_bytes_by_format"])
        table[f"as {converted['weights']}"] = f"{_bytes(converted['bytes'])}, matrices {sizes}"
    yield from (f"{name:<11} {text}" for name, text in table.items())


def _formats(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {_bytes(size)}" for name, size in sizes.items())


def _shown(files: Iterable[VerifiedFile], quiet: bool) -> list[VerifiedFile]:
    """Prints each file as soon as it is verified."""
    shown = []
    for file in files:
        shown.append(file)
        if not quiet:
            note = f"as in {file.recorded}" if file.recorded else "no recorded sum to compare with"
            print(f"{file.sha256}  {file.name}  ({note})")
    return shown


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _count(value: int) -> str:
    return _scaled(value, ((1e9, " billion"), (1e6, " million"), (1e3, " thousand")), "")


def _bytes(value: int) -> str:
    return _scaled(value, ((1e9, " GB"), (1e6, " MB"), (1e3, " kB")), " bytes")


def _scaled(value: int, units: tuple[tuple[float, str], ...], otherwise: str) -> str:
    for size, name in units:
        if value >= size:
            return f"{value / size:,.2f}{name}"
    return f"{value}{otherwise}"
