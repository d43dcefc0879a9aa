"""A checkpoint's tensors, checked whole before any is read and then served as views of the mapped files.

What is checked from the headers alone: the index and the files it names, every tensor's presence, place,
shape and type, and that each FP8 matrix has its factors. A factor that is not a positive number is found
when its matrix is asked for, and so is a norm or bias that is no number: one expert's bias of NaN wins every
choice and leaves the logits finite. Weights in pickled form (.bin, .pt) are never opened.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from fullbore.errors import CheckpointError
from fullbore.model.config import ModelConfig
from fullbore.model.files import file_in, read_object
from fullbore.model.safetensors_file import HEADER_LIMIT, Entry, MappedFile, read_header
from fullbore.model.specs import TensorSpec, is_mtp, tensor_specs
from fullbore.ops.formats import Weight, outline

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")


class Checkpoint:
    """Open with ``Checkpoint.open``.

    config: as given, but with ``num_nextn_predict_layers`` 0 where the files hold no such layer (tools that
    save a model without it often leave the field as it was).
    specs: the tensors that are there, by name; optional ones only where present.
    """

    def __init__(
        self, folder: Path, config: ModelConfig, specs: dict[str, TensorSpec], places: dict[str, "_Place"]
    ) -> None:
        self.folder, self.config, self.specs = folder, config, specs
        self._places = places
        self._maps = {path: MappedFile(path) for path in sorted({place.path for place in places.values()})}
        self._sound: set[str] = set()  # vectors and factors whose values were looked at

    @classmethod
    def open(cls, folder: Path, config: ModelConfig) -> "Checkpoint":
        """Reads and checks all headers. Raises CheckpointError naming file and tensor."""
        places = _find_tensors(folder)
        if not any(is_mtp(config, name) for name in places):
            config = dataclasses.replace(config, num_nextn_predict_layers=0)
        specs = _match(folder, config, places)
        return cls(folder, config, specs, places)

    @property
    def files(self) -> list[Path]:
        """The files that hold the tensors, in order."""
        return list(self._maps)

    @property
    def total_bytes(self) -> int:
        """Of all tensors and factors that the model is made of; copies of others do not count."""
        return sum(self.stored_bytes(name) for name, spec in self.specs.items() if not spec.optional)

    def stored_bytes(self, name: str) -> int:
        """Of one tensor and, if it has them, its factors."""
        entries = [self._places[one].entry for one in self._with_scale(name)]
        return sum(entry.end - entry.begin for entry in entries)

    def format(self, name: str) -> str:
        """How a tensor is stored: fp8_block, bf16 or fp32."""
        return {"F8_E4M3": "fp8_block", "BF16": "bf16", "F32": "fp32"}[self._place(name).entry.dtype]

    def file_of(self, name: str) -> Path:
        return self._place(name).path

    def outline(self, name: str) -> Weight:
        """Shape and format of a matrix; reads nothing."""
        return outline(self._place(name).entry.shape, self.format(name))

    def weight(self, name: str) -> Weight:
        """A matrix as stored, [out, in], joined with its factors if it is FP8; views of the mapped files."""
        data = self.tensor(name)
        *_, last = self._with_scale(name)
        if last == name:
            return Weight(data)
        scale = self.tensor(last)
        if last not in self._sound:
            self._check_scale(last, scale)
            self._sound.add(last)
        return Weight(data, scale)

    def tensor(self, name: str) -> Tensor:
        """A tensor as stored; a view of the mapped file, to be read and not written."""
        place = self._place(name)
        tensor = self._maps[place.path].tensor(place.entry)
        if tensor.dim() == 1 and name not in self._sound:
            self._check_vector(name, tensor)
            self._sound.add(name)
        return tensor

    def release(self, name: str) -> None:
        """Hands back the memory that reading a tensor and its factors took; views stay valid."""
        for one in self._with_scale(name):
            place = self._place(one)
            self._maps[place.path].release(place.entry)

    def _place(self, name: str) -> "_Place":
        if name not in self._places:
            raise CheckpointError(f"{self.folder}: there is no tensor {name}")
        return self._places[name]

    def _with_scale(self, name: str) -> list[str]:
        self._place(name)
        spec = self.specs.get(name)
        return [name, spec.scale_name] if spec and spec.scale_name in self._places else [name]

    def _check_vector(self, name: str, values: Tensor) -> None:
        sound = values.isfinite()
        if not bool(sound.all()):
            place = int((~sound).nonzero()[0])
            raise CheckpointError(
                f"{self.file_of(name)}: tensor {name} holds {values[place].item()} at {place}, expected a "
                "finite number; the file is damaged or was badly converted"
            )

    def _check_scale(self, name: str, scale: Tensor) -> None:
        low, high = scale.aminmax()
        if not (low > 0 and high < math.inf):  # neither holds of nan, which is both where it occurs
            sound = scale.isfinite() & (scale > 0)
            row, column = (~sound).nonzero()[0].tolist()
            raise CheckpointError(
                f"{self.file_of(name)}: tensor {name} has the factor {scale[row, column].item()} for block "
                f"({row}, {column}), expected a positive number; the file is damaged or was badly converted"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    path: Path
    entry: Entry


def _find_tensors(folder: Path) -> dict[str, _Place]:
    """Every tensor of the checkpoint's files with its place, and that file and index agree on it."""
    index = file_in(folder, INDEX)
    listed = _read_index(index) if index.exists() else None
    places: dict[str, _Place] = {}
    for name in sorted(set(listed.values())) if listed is not None else [_single_file(folder)]:
        path = file_in(folder, name)
        if not path.is_file():
            raise CheckpointError(f"{index} names the file {name}, which is not there; complete the download")
        for tensor, entry in read_header(path).items():
            if tensor in places:
                raise CheckpointError(f"tensor {tensor} is in two files, {places[tensor].path} and {path}")
            if listed is not None and listed.get(tensor) != name:
                where = f"in {listed[tensor]}" if tensor in listed else "nowhere"
                raise CheckpointError(f"{path} holds the tensor {tensor}; according to {index} it is {where}")
            places[tensor] = _Place(path, entry)
    for tensor, name in (listed or {}).items():
        if tensor not in places:
            raise CheckpointError(f"{index} says that {name} holds the tensor {tensor}, but it does not")
    return places


def _read_index(path: Path) -> dict[str, str]:
    weight_map = read_object(path, HEADER_LIMIT, CheckpointError).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: weight_map is missing or empty, expected {{tensor: file}}")
    for tensor, name in weight_map.items():
        if not isinstance(name, str):
            raise CheckpointError(
                f"{path}: weight_map gives {name!r} as the file of {tensor}, expected a name"
            )
        if not name.endswith(".safetensors"):
            raise CheckpointError(f"{path}: tensor {tensor} is in {name}; only safetensors files are read")
    return weight_map


def _single_file(folder: Path) -> str:
    """The name of the one safetensors file of a checkpoint without index."""
    names = sorted(path.name for path in folder.iterdir())
    found = [name for name in names if name.endswith(".safetensors")]
    if SINGLE in found or len(found) == 1:
        return SINGLE if SINGLE in found else found[0]
    if found:
        raise CheckpointError(f"{folder} has {len(found)} safetensors files but no {INDEX}; download it too")
    pickled = [name for name in names if name.endswith(_PICKLED)]
    if pickled:
        raise CheckpointError(
            f"{folder} has its weights in {pickled[0]}: pickled files can run code and are never read; "
            "convert them to safetensors"
        )
    raise CheckpointError(f"{folder} has no weights: neither {INDEX} nor {SINGLE} is there")


def _match(folder: Path, config: ModelConfig, places: Mapping[str, _Place]) -> dict[str, TensorSpec]:
    """The specs of what is there; CheckpointError for the first thing that does not fit ``config``."""
    specs, unexpected = tensor_specs(config), dict(places)
    missing = []
    for name, spec in specs.items():
        if name in places:
            _check_tensor(config, spec, places)
            for used in (name, spec.scale_name):
                unexpected.pop(used, None)
        elif not spec.optional:
            missing.append(name)
    if missing:
        raise CheckpointError(f"{folder}: {_first(missing)} missing, and config.json asks for it")
    # Angles of the rotary embedding, which some tools save; they follow from config.json.
    extra = [name for name in unexpected if not name.endswith("rotary_emb.inv_freq")]
    if extra:
        hint = ""
        if is_mtp(config, extra[0]):
            layers = config.num_hidden_layers, config.num_nextn_predict_layers
            hint = f" (num_hidden_layers is {layers[0]}, num_nextn_predict_layers {layers[1]})"
        raise CheckpointError(
            f"{places[extra[0]].path}: {_first(extra)} not part of the model in config.json{hint}"
        )
    return {name: spec for name, spec in specs.items() if name in places}


def _first(names: list[str]) -> str:
    return f"tensor {names[0]} is" if len(names) == 1 else f"tensor {names[0]} (and {len(names) - 1} more) is"


def _check_tensor(config: ModelConfig, spec: TensorSpec, places: Mapping[str, _Place]) -> None:
    """Shape, type and factors of one tensor."""
    place = places[spec.name]
    entry, says = place.entry, f"{place.path}: tensor {spec.name}"
    if entry.shape != spec.shape:
        raise CheckpointError(
            f"{says} has the shape {list(entry.shape)}, expected {list(spec.shape)} from config.json"
        )
    fp8 = spec.kind == "linear" and config.quantised
    accepted = ["F8_E4M3"] * fp8 + ["BF16", "F32"]
    if entry.dtype not in accepted:
        why = "" if fp8 or spec.kind != "linear" else " (config.json has no quantization_config)"
        raise CheckpointError(f"{says} has the dtype {entry.dtype}, expected {_either(accepted)}{why}")
    scale = places.get(spec.scale_name)
    if entry.dtype != "F8_E4M3":
        if scale:
            raise CheckpointError(
                f"{says} is {entry.dtype}, yet {scale.path} has FP8 factors for it, {spec.scale_name}"
            )
        return
    if scale is None:
        raise CheckpointError(f"{says} is FP8, but its factors {spec.scale_name} are missing")
    if scale.entry.dtype != "F32" or scale.entry.shape != spec.scale_shape:
        found = f"{scale.entry.dtype} {list(scale.entry.shape)}"
        raise CheckpointError(
            f"{scale.path}: tensor {spec.scale_name} is {found}, expected F32 {list(spec.scale_shape)}: "
            f"one factor for each 128 x 128 block of {list(spec.shape)}"
        )


def _either(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}"
