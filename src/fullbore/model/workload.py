"""What a model asks of its kernels: found by building the network against a recorder, which notes what is
bound to what without reading a weight."""

from collections import Counter
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, NoReturn, Protocol

from torch import Tensor

from fullbore.hardware.device import CPU, Device
from fullbore.model.config import ModelConfig
from fullbore.model.deepseek import DeepseekV3
from fullbore.model.mtp import MultiTokenPredictor
from fullbore.model.parts import Call, Parts
from fullbore.ops.contract import Job
from fullbore.ops.demand import Workload
from fullbore.ops.formats import Weight
from fullbore.ops.operators import OPERATORS
from fullbore.parallel.rank import WHOLE, Role


class Source(Protocol):
    """Tensors by name: views of mapped files (``Checkpoint``), or made of them (``Converted``).

    ``outline`` is ``weight`` without values, for the recorder.
    """

    def outline(self, name: str) -> Weight: ...
    def weight(self, name: str) -> Weight: ...
    def tensor(self, name: str) -> Tensor: ...
    def release(self, name: str) -> None: ...
    @property
    def total_bytes(self) -> int: ...


def workload(
    config: ModelConfig,
    source: Source,
    dtype: str,
    kv_bits: int = 0,
    device: Device = CPU,
    role: Role = WHOLE,
) -> Workload:
    """The jobs of the network with weights from ``source``, computing in ``dtype``, with such a cache."""
    recorder = _Recorder(source, dtype, device, role)
    assemble(config, recorder, dtype, kv_bits)
    jobs = {job for group in recorder.groups for job in group}
    heads = {job for job in jobs if _sees_sampled_rows(job, config.vocab_size // role.rank.layout.devices)}
    sizes = _sizes(config, role.rank.layout.tp)
    return Workload(MappingProxyType(recorder.groups), sizes, frozenset(heads), source.total_bytes)


def _sees_sampled_rows(job: Job, vocab: int) -> bool:
    return job.operator == "greedy" or (job.operator == "linear" and dict(job.shape)["out"] == vocab)


def assemble(config: ModelConfig, parts: Parts, dtype: str, kv_bits: int = 0) -> DeepseekV3:
    """The network of ``config``, its MTP layers included. ``kv_bits``: of a latent in the cache."""
    model = DeepseekV3(config, parts, dtype, kv_bits)
    layers = range(config.num_nextn_predict_layers)
    model.mtp = tuple(MultiTokenPredictor(model, parts, index) for index in layers)
    model.bytes = parts.bytes
    return model


def _sizes(config: ModelConfig, tp: int) -> dict[str, int]:
    """What the draws of operators need and weights do not tell, under the operators' names."""
    return {
        "k": config.num_experts_per_tok,
        "heads": config.num_attention_heads // tp,
        "nope": config.qk_nope_head_dim,
        "dim": config.qk_rope_head_dim,
        "rope": config.qk_rope_head_dim,
        "latent": config.kv_lora_rank,
    }


class _Recorder:
    """Parts that only take note of the jobs. Reads names and shapes, never values."""

    bytes = 0

    def __init__(self, source: Source, dtype: str, device: Device, role: Role) -> None:
        self.weight, self.tensor, self.device, self.role = source.outline, source.tensor, device, role
        self.groups: Counter[tuple[Job, ...]] = Counter()
        self._dtype = dtype

    def bind(self, operator: str, *weights: Any) -> Call:
        return self.bind_all((operator,), *weights)[0]

    def bind_all(self, operators: Sequence[str], *weights: Any) -> tuple[Call, ...]:
        kind = self.device.kind
        self.groups[tuple(Job.of(OPERATORS[name], weights, self._dtype, kind) for name in operators)] += 1
        return tuple(_not_loaded for _ in operators)

    def done(self) -> None:
        """Nothing was read, so there is nothing to release."""


def _not_loaded(*inputs: Any) -> NoReturn:
    raise RuntimeError("this network was built to record its jobs; it has no weights")
