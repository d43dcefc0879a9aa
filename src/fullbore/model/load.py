"""From a checkpoint folder to a model ready to run, one tensor at a time.

The network's constructor runs twice: first against a recorder, which notes what kernels are needed for what
shapes and formats without reading a weight (``workload``); then, with the kernels selected, against the
loader.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fullbore.errors import CapacityError, UsageError
from fullbore.hardware.cpu import best_dtype
from fullbore.hardware.device import CPU, Device
from fullbore.kernels.catalogue import CATALOGUE
from fullbore.model.checkpoint import Checkpoint
from fullbore.model.config import ModelConfig, load_config
from fullbore.model.convert import Converted
from fullbore.model.deepseek import DeepseekV3
from fullbore.model.held import Held
from fullbore.model.made import Made
from fullbore.model.parts import Call
from fullbore.model.share import held_specs
from fullbore.model.specs import TensorSpec, tensor_specs
from fullbore.model.weights import RECIPES, STORED, Recipe, recipe
from fullbore.model.workload import Source, assemble, workload
from fullbore.ops.contract import DTYPES, packed_bytes
from fullbore.ops.demand import Workload
from fullbore.ops.formats import Weight
from fullbore.ops.registry import Registry
from fullbore.ops.selection import Selection, select
from fullbore.ops.setting import kv_bits
from fullbore.parallel.rank import WHOLE, Role

GIB = 1 << 30

Progress = Callable[[int, int], None]  # (bytes done, bytes in all)
Selector = Callable[[Workload, Registry, str], Selection]  # the last is the compute type


def in_registry_order(work: Workload, registry: Registry, dtype: str) -> Selection:
    """The first kernel that can do each job, where nothing was measured."""
    return select(work.groups, registry, work.device, dtype)


def load_model(
    folder: Path,
    dtype: str = "auto",
    progress: Progress | None = None,
    selector: Selector = in_registry_order,
    weights: str = STORED,
    kv_cache_dtype: str = "auto",
    device: Device = CPU,
    role: Role = WHOLE,
    random: bool = False,
) -> DeepseekV3:
    """The model in ``folder``, with every kernel selected. ``dtype``: float32, bfloat16 or auto; ``weights``:
    a name in ``RECIPES``; ``kv_cache_dtype``: one of ``ops.setting.KV_CACHE_DTYPES``; ``role``: what of it;
    ``random``: with random weights, whatever files there are beside its config.json.

    ``progress(done, total)`` is called with bytes of the weights; the last call has done == total.
    Before any weight is read: ConfigError or CheckpointError where the folder holds no such model,
    CapacityError where it cannot fit, UsageError where the role does not divide it.
    """
    chosen, wanted = compute_type(dtype, device), recipe(weights)
    bits = kv_bits(kv_cache_dtype, chosen)
    stored = _stored(folder, role, device, random)
    source = stored.converted(wanted)
    _refuse_too_large(folder, stored, source, device.free_bytes(), role)
    model = build(stored.config, source, chosen, CATALOGUE, progress, selector, bits, device, role)
    model.format, model.conversion = source.format, source.summary()
    return model


@dataclass(frozen=True)
class Stored:
    """The tensors of ``specs``, before they are converted."""

    config: ModelConfig
    specs: Mapping[str, TensorSpec]
    source: Source

    def converted(self, wanted: Recipe) -> Converted:
        return Converted(self.source, self.specs, wanted)


def _stored(folder: Path, role: Role, device: Device, random: bool) -> Stored:
    config = load_config(folder)
    if random:
        specs = {name: spec for name, spec in tensor_specs(config).items() if not spec.optional}
        held = held_specs(specs, config, role)
        return Stored(config, held, Made(held, config, device))
    checkpoint = Checkpoint.open(folder, config)
    if role.rank.layout.devices == 1 and not role.distinct_layers:
        return Stored(checkpoint.config, checkpoint.specs, checkpoint)
    held = held_specs(checkpoint.specs, checkpoint.config, role)
    return Stored(checkpoint.config, held, Held(checkpoint, held, checkpoint.specs, role.rank))


def _refuse_too_large(folder: Path, stored: Stored, source: Converted, free: int, role: Role) -> None:
    """No kernel packs weights smaller than their format, and what does not fit ends in a kill."""
    if source.total_bytes <= free:
        return
    sizes = {name: stored.converted(each).total_bytes for name, each in RECIPES.items()}
    fitting = [name for name in RECIPES if sizes[name] <= free]
    advice = f"use --weights {fitting[0]}" if fitting else "use a larger machine"
    if role.rank.layout.devices > 1:
        layers = role.distinct_layers or stored.config.num_hidden_layers
        # Rounded down by what does not grow with the layers: the embedding and the head.
        fewer = int(layers * free / source.total_bytes * 0.9)
        advice = f"use --emulate-layers {fewer}" if fewer > 1 else "use a larger device"
    part = f"{role.rank} of {folder}" if role.rank.layout.devices > 1 else str(folder)
    raise CapacityError(
        f"{part} holds {source.total_bytes / GIB:.1f} GiB of weights as {source.recipe.name}, and "
        f"{free / GIB:.1f} GiB of memory are free (free some, {advice}, or a smaller model)"
    )


def compute_type(dtype: str, device: Device = CPU) -> str:
    """float32 or bfloat16 for what ``--dtype`` says."""
    if dtype not in ("auto", *DTYPES):
        raise UsageError(f"--dtype {dtype} is not known; use auto, {' or '.join(DTYPES)}")
    if device.kind != "cpu":
        if dtype == "float32":
            raise UsageError("--dtype float32: kernels for GPUs compute in bfloat16 (leave it out)")
        return "bfloat16"
    return best_dtype() if dtype == "auto" else dtype


def build(
    config: ModelConfig,
    source: Source,
    dtype: str,
    registry: Registry = CATALOGUE,
    progress: Progress | None = None,
    selector: Selector = in_registry_order,
    kv_bits: int = 0,
    device: Device = CPU,
    role: Role = WHOLE,
) -> DeepseekV3:
    """The model of ``config`` with weights from ``source`` and a cache of ``kv_bits`` (``CacheRow``)."""
    selection = selector(workload(config, source, dtype, kv_bits, device, role), registry, dtype)
    loader = Loader(source, selection, progress, device, role)
    model = assemble(config, loader, dtype, kv_bits)
    model.selection = selection
    if progress:
        progress(source.total_bytes, source.total_bytes)
    return model


class Loader:
    """Parts of the real model: packs what it hands out and lets go of the mapped pages at once, so that
    beside the packed weights only one matrix (of experts: one expert) is in memory.
    """

    def __init__(
        self,
        source: Source,
        selection: Selection,
        progress: Progress | None,
        device: Device,
        role: Role = WHOLE,
    ) -> None:
        self.bytes, self.device, self.role = 0, device, role
        self._source, self._selection, self._progress = source, selection, progress
        self._total = source.total_bytes
        self._handed: dict[str, int] = {}  # name -> bytes, since the last ``done``
        self._read: set[str] = set()  # names of all before; a shape may be looked at before the values
        self._done = 0  # their bytes

    def weight(self, name: str) -> Weight:
        weight = self._source.weight(name)
        self._handed[name] = weight.bytes
        return weight

    def tensor(self, name: str) -> Tensor:
        tensor = self._source.tensor(name)
        self._handed[name] = tensor.nbytes
        return tensor

    def bind(self, operator: str, *weights: Any) -> Call:
        return self.bind_all((operator,), *weights)[0]

    def bind_all(self, operators: Sequence[str], *weights: Any) -> tuple[Call, ...]:
        bound = self._selection.bind(operators, *weights)
        unique = {id(packed): packed for one in bound for packed in one.packs}
        self.bytes += sum(packed_bytes(packed) for packed in unique.values())
        self.done()
        return bound

    def done(self) -> None:
        for name, size in self._handed.items():
            self._source.release(name)
            self._done += 0 if name in self._read else size
            self._read.add(name)
        self._handed.clear()
        if self._progress:
            self._progress(self._done, self._total)
