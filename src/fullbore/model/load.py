"""From a checkpoint folder to a model ready to run, one tensor at a time.

The network's constructor runs twice: first against a recorder, which notes what kernels are needed for what
shapes and formats without reading a weight; then, with the kernels selected, against the loader.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from torch import Tensor

from fullbore.errors import UsageError
from fullbore.hardware.cpu import best_dtype
from fullbore.kernels.catalogue import CATALOGUE
from fullbore.model.checkpoint import Checkpoint
from fullbore.model.config import ModelConfig, load_config
from fullbore.model.deepseek import DeepseekV3
from fullbore.model.mtp import MultiTokenPredictor
from fullbore.model.parts import Call, Parts
from fullbore.ops.contract import DTYPES, Job, packed_bytes
from fullbore.ops.formats import Weight
from fullbore.ops.operators import OPERATORS
from fullbore.ops.registry import Registry
from fullbore.ops.selection import Selection, select

Progress = Callable[[int, int], None]  # (bytes done, bytes in all)
DEVICE = "cpu"


class Source(Protocol):
    """Stored tensors by name, as views of mapped files (``Checkpoint``)."""

    def weight(self, name: str) -> Weight: ...
    def tensor(self, name: str) -> Tensor: ...
    def release(self, name: str) -> None: ...
    @property
    def total_bytes(self) -> int: ...


def load_model(folder: Path, dtype: str = "auto", progress: Progress | None = None) -> DeepseekV3:
    """The model in ``folder``, with every kernel selected. ``dtype``: float32, bfloat16 or auto.

    ``progress(done, total)`` is called with bytes of the checkpoint; the last call has done == total.
    Raises ConfigError or CheckpointError, before any weight is read, where the folder holds no such model.
    """
    if dtype not in ("auto", *DTYPES):
        raise UsageError(f"--dtype {dtype} is not known; use auto, {' or '.join(DTYPES)}")
    checkpoint = Checkpoint.open(folder, load_config(folder))
    chosen = best_dtype() if dtype == "auto" else dtype
    return build(checkpoint.config, checkpoint, chosen, progress=progress)


def build(
    config: ModelConfig,
    source: Source,
    dtype: str,
    registry: Registry = CATALOGUE,
    progress: Progress | None = None,
) -> DeepseekV3:
    """The model of ``config`` with weights from ``source``."""
    recorder = _Recorder(source, dtype)
    _assemble(config, recorder, dtype)
    selection = select(recorder.jobs, registry, DEVICE, dtype)
    loader = _Loader(source, selection, progress)
    model = _assemble(config, loader, dtype)
    model.selection = selection
    if progress:
        progress(source.total_bytes, source.total_bytes)
    return model


def _assemble(config: ModelConfig, parts: Parts, dtype: str) -> DeepseekV3:
    model = DeepseekV3(config, parts, dtype)
    layers = range(config.num_nextn_predict_layers)
    model.mtp = tuple(MultiTokenPredictor(model, parts, index) for index in layers)
    model.bytes = parts.bytes
    return model


class _Recorder:
    """Parts that only take note of the jobs. Reads names and shapes, never values."""

    bytes = 0

    def __init__(self, source: Source, dtype: str) -> None:
        self.weight, self.tensor = source.weight, source.tensor
        self.jobs: list[Job] = []
        self._dtype = dtype

    def bind(self, operator: str, *weights: Any) -> Call:
        return self.bind_all((operator,), *weights)[0]

    def bind_all(self, operators: Sequence[str], *weights: Any) -> tuple[Call, ...]:
        for name in operators:
            self.jobs.append(Job.of(OPERATORS[name], weights, self._dtype, DEVICE))
        return tuple(_not_loaded for _ in operators)

    def done(self) -> None:
        """Nothing was read, so there is nothing to release."""


def _not_loaded(*inputs: Any) -> NoReturn:
    raise RuntimeError("this network was built to record its jobs; it has no weights")


class _Loader:
    """Parts of the real model: packs what it hands out and lets go of the mapped pages at once, so that
    beside the packed weights only one matrix (of experts: one expert) is in memory.
    """

    def __init__(self, source: Source, selection: Selection, progress: Progress | None) -> None:
        self.bytes = 0
        self._source, self._selection, self._progress = source, selection, progress
        self._handed: dict[str, int] = {}  # name -> bytes, since the last ``done``
        self._read: dict[str, int] = {}  # the same of all before; a shape may be looked at before the values

    def weight(self, name: str) -> Weight:
        weight = self._source.weight(name)
        scale = 0 if weight.scale is None else weight.scale.nbytes
        self._handed[name] = weight.data.nbytes + scale
        return weight

    def tensor(self, name: str) -> Tensor:
        tensor = self._source.tensor(name)
        self._handed[name] = tensor.nbytes
        return tensor

    def bind(self, operator: str, *weights: Any) -> Call:
        return self.bind_all((operator,), *weights)[0]

    def bind_all(self, operators: Sequence[str], *weights: Any) -> tuple[Call, ...]:
        bound = self._selection.bind(operators, *weights)
        unique = {id(one.packed): one.packed for one in bound}
        self.bytes += sum(packed_bytes(packed) for packed in unique.values())
        self.done()
        return bound

    def done(self) -> None:
        for name, size in self._handed.items():
            self._source.release(name)
            self._read[name] = size
        self._handed.clear()
        if self._progress:
            self._progress(sum(self._read.values()), self._source.total_bytes)
