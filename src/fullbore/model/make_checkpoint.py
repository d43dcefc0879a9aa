"""``fullbore make-checkpoint``: a random-weight checkpoint of any size in the published format.

For speed tests, for other engines to load, and for trying real layer shapes without 689 GB of download.
"""

import argparse
import contextlib
import copy
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullbore.errors import CapacityError, UsageError, did_you_mean
from fullbore.model.checkpoint import INDEX, SINGLE
from fullbore.model.config import ModelConfig, parse_config
from fullbore.model.files import read_object
from fullbore.model.presets import PRESETS, QUANTISATION
from fullbore.model.progress import ByteBar
from fullbore.model.random_tokenizer import write_tokenizer
from fullbore.model.random_weights import RandomWeights
from fullbore.model.safetensors_file import ITEM_BYTES, write_file
from fullbore.model.specs import TensorSpec, tensor_specs
from fullbore.model.verify import MANIFEST

_OWN_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    INDEX,
    MANIFEST,
)
_SPARE_BYTES = 64 << 20  # what must stay free on the disk


@dataclass(frozen=True)
class Piece:
    """One tensor of the file: a spec's data, or its factors."""

    spec: TensorSpec
    is_scale: bool
    dtype: str

    @property
    def name(self) -> str:
        return self.spec.scale_name if self.is_scale else self.spec.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.scale_shape if self.is_scale else self.spec.shape

    @property
    def bytes(self) -> int:
        count = self.shape[0] * self.shape[1] if self.is_scale else self.spec.elements
        return count * ITEM_BYTES[self.dtype]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    parser.add_argument(
        "--config", default="tiny", help=f"{', '.join(PRESETS)}, or a config.json (default: %(default)s)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE",
        help="change a field of the config, e.g. hidden_size=2048 or rope_scaling.factor=8; may be repeated",
    )  # fmt: skip
    parser.add_argument("--layers", type=int, help="keep only this many layers")
    parser.add_argument(
        "--format",
        choices=("fp8", "bf16"),
        default="fp8",
        help="of the linear weights (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same weights (default: %(default)s)")
    parser.add_argument(
        "--shard-gb", type=float, default=4.3, help="largest size of a file in GB (default: %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="replace the checkpoint that is in OUT")


def run(args: argparse.Namespace) -> int:
    if not 0 < args.shard_gb < math.inf:  # NaN is neither
        raise UsageError(f"--shard-gb is {args.shard_gb:g}, expected a finite number above 0")
    changes = [*args.set, *([f"num_hidden_layers={args.layers}"] if args.layers is not None else [])]
    fields = config_fields(args.config, changes, args.format)
    size = make_checkpoint(args.out, fields, args.seed, int(args.shard_gb * 1e9), args.force)
    print(f"{args.out}: {size / 1e6:,.1f} MB (look at it: fullbore inspect {args.out})")
    return 0


def config_fields(source: str, changes: Sequence[str] = (), format: str = "fp8") -> dict[str, Any]:
    """What config.json shall say: a preset or a file, changed by ``field=value`` (values are JSON, or text).

    Fields that tools leave out although other engines need them are filled in.
    """
    if source in PRESETS:
        fields = copy.deepcopy(dict(PRESETS[source]))
    else:
        path = Path(source) / "config.json" if Path(source).is_dir() else Path(source)
        if not path.exists():
            raise UsageError(
                f"--config {source}: neither a file nor a preset{did_you_mean(source, PRESETS)}; "
                f"the presets are {', '.join(PRESETS)}"
            )
        fields = read_object(path)
    for change in changes:
        _change(fields, change)
    fields.setdefault("topk_method", "noaux_tc")
    fields.setdefault("scoring_func", "sigmoid")
    fields.setdefault("num_nextn_predict_layers", 0)
    fields.pop("quantization_config", None)
    fields.pop("auto_map", None)  # the code it names is not in the new folder
    if format == "fp8":
        fields["quantization_config"] = dict(QUANTISATION)
    parse_config(fields, f"--config {source}")
    return fields


def _change(fields: dict[str, Any], change: str) -> None:
    """Applies ``field=value`` or ``field.inner=value``."""
    name, equals, text = change.partition("=")
    if not equals or not name:
        raise UsageError(f"--set {change}: expected FIELD=VALUE")
    *outer, last = name.split(".")
    place = fields
    for part in outer:
        inner = place.get(part)
        if not isinstance(inner, dict):
            raise UsageError(f"--set {change}: {part} has no fields{did_you_mean(part, place)}")
        place = inner
    if not outer and last not in fields and last not in ModelConfig.__dataclass_fields__:
        raise UsageError(f"--set {change}: config.json has no field {last}{did_you_mean(last, fields)}")
    try:
        place[last] = json.loads(text)
    except ValueError:
        place[last] = text


def make_checkpoint(
    folder: Path,
    fields: Mapping[str, Any],
    seed: int = 0,
    shard_bytes: int = 4_300_000_000,
    force: bool = False,
) -> int:
    """Writes the checkpoint of ``fields`` (as ``config_fields`` gives them) and returns its tensors' bytes.

    One piece of a tensor is in memory at a time. config.json comes last, and whatever was written goes away
    when writing ends early, so that no half checkpoint looks whole. Raises UsageError when the folder is not
    empty, CapacityError when the disk is too small.
    """
    config = parse_config(dict(fields))
    shards = plan_shards(config, shard_bytes)
    total = sum(piece.bytes for shard in shards for piece in shard)
    created = _prepare(folder, force)
    try:
        _check_disk(folder, total)
        names = (
            [SINGLE] if len(shards) == 1 else [_shard_name(n + 1, len(shards)) for n in range(len(shards))]
        )
        weights = RandomWeights(config, seed)
        sums = []
        with ByteBar("writing", total) as bar:
            for name, shard in zip(names, shards, strict=True):
                entries = {piece.name: (piece.dtype, piece.shape) for piece in shard}
                sums.append(write_file(folder / name, entries, _data(weights, shard, bar)))
        _write_text(
            folder / MANIFEST, "".join(f"{digest}  {n}\n" for digest, n in zip(sums, names, strict=True))
        )
        write_tokenizer(folder, config)
        _write_json(folder / "generation_config.json", _generation(config))
        if len(shards) > 1:
            where = {piece.name: n for n, shard in zip(names, shards, strict=True) for piece in shard}
            _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
        _write_json(folder / "config.json", dict(fields))
    except BaseException:
        _clear(folder)
        for made in created:
            with contextlib.suppress(OSError):  # somebody else has put something there
                made.rmdir()
        raise
    return total


def plan_shards(config: ModelConfig, shard_bytes: int) -> list[list[Piece]]:
    """The tensors in the order of the network, cut into files of at most ``shard_bytes`` (or one tensor)."""
    shards: list[list[Piece]] = [[]]
    filled = 0
    for piece in _pieces(config):
        if shards[-1] and filled + piece.bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(piece)
        filled += piece.bytes
    return shards


def _pieces(config: ModelConfig) -> Iterator[Piece]:
    for spec in tensor_specs(config).values():
        if spec.optional and (config.tie_word_embeddings or not spec.elements):
            continue  # empty, or what a tied head would repeat
        fp8 = spec.kind == "linear" and config.quantised
        yield Piece(spec, False, "F8_E4M3" if fp8 else "F32" if spec.kind == "bias" else "BF16")
        if fp8:
            yield Piece(spec, True, "F32")


def _data(weights: RandomWeights, shard: Sequence[Piece], bar: ByteBar) -> Iterator[bytes]:
    for piece in shard:
        if piece.is_scale:
            yield weights.scale(piece.spec).tobytes()
            bar.advance(piece.bytes)
            continue
        for part in weights.stored(piece.spec, piece.dtype):
            yield part
            bar.advance(len(part))


def _prepare(folder: Path, force: bool) -> list[Path]:
    """Makes the folder, or empties it of a checkpoint; returns the folders made, innermost first."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; give a folder to write")
    if folder.is_dir():
        if any(folder.iterdir()) and not force:
            raise UsageError(
                f"{folder} is not empty; give another folder, or --force to replace its checkpoint"
            )
        _clear(folder)
        return []
    created = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True)
    return created


def _clear(folder: Path) -> None:
    """Removes the files of a checkpoint, and nothing else that may be there; config.json first."""
    for name in _OWN_FILES:
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("*.safetensors"):
        path.unlink()


def _check_disk(folder: Path, total: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < total + _SPARE_BYTES:
        raise CapacityError(
            f"{folder}: the checkpoint takes {total / 1e9:.1f} GB, its disk has {free / 1e9:.1f} GB free; "
            "free some space, write elsewhere, or keep fewer layers (--layers)"
        )


def _shard_name(number: int, count: int) -> str:
    return f"model-{number:05}-of-{count:06}.safetensors"


def _generation(config: ModelConfig) -> dict[str, Any]:
    ends = list(config.eos_token_ids)
    return {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.95,
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    _write_text(path, json.dumps(value, indent=2) + "\n")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
