"""The step time of a model on this machine: the tuner's table, and what is probed in the same minute."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fullbore.model.config import ModelConfig
from fullbore.parallel.layout import Layout
from fullbore.plan.weights import on_cpus, weight_bytes
from fullbore.steptime.measured import Host, MeasuredStepTime

if TYPE_CHECKING:
    from fullbore.engine.options import EngineOptions
    from fullbore.hardware.ceiling import Ceiling
    from fullbore.ops.times import Times


@dataclass(frozen=True)
class Here:
    """``step_time`` at ``ceiling``, which was probed just now. ``weights``: bytes as kernels pack them, by
    part; ``token_bytes``: one token's latents."""

    step_time: MeasuredStepTime
    ceiling: "Ceiling"
    config: ModelConfig
    dtype: str
    weights: Mapping[str, float]
    token_bytes: int


def here(
    options: "EngineOptions", ceiling: "Ceiling", times: "Times | None" = None, host: Host | None = None
) -> Here:
    """What ``fullbore serve`` with these options would compute with, and how long that takes.

    times: None for this machine's table. host: None to measure it, which takes seconds. TimesMissing where an
    operator was never timed with the present code.
    """
    # What knows kernels needs torch, and planning for other machines does not.
    from dataclasses import replace

    import torch

    from fullbore.engine.host_share import host_us
    from fullbore.kernels.catalogue import CATALOGUE
    from fullbore.model.checkpoint import Checkpoint
    from fullbore.model.config import load_config
    from fullbore.model.convert import Converted
    from fullbore.model.load import compute_type
    from fullbore.model.locate import locate
    from fullbore.model.weights import recipe
    from fullbore.model.workload import workload
    from fullbore.ops.cache import CacheRow
    from fullbore.ops.setting import Setting, kv_bits
    from fullbore.ops.tuned import Tuned
    from fullbore.steptime.table import operator_times

    setting = Setting.of(
        options.scenario, options.concurrency, options.threads, options.max_num_batched_tokens
    )
    torch.set_num_threads(setting.threads)
    folder, dtype = locate(options.model), compute_type(options.dtype)
    bits = kv_bits(options.kv_cache_dtype, dtype)
    checkpoint = Checkpoint.open(folder, load_config(folder))
    config = checkpoint.config
    source = Converted(checkpoint, checkpoint.specs, recipe(options.weights))
    tuned = Tuned(setting.store.load() if times is None else times, setting.mix, options.by_tokens)
    work = workload(config, source, dtype, bits)
    selection = tuned(work, CATALOGUE, dtype)
    # Kernels are chosen for all layers; a step runs those of the main model.
    main = workload(replace(config, num_nextn_predict_layers=0), source, dtype, bits)
    operators = operator_times(main, selection, tuned.evidence(main, CATALOGUE).estimator, ceiling)
    row = CacheRow(config.kv_lora_rank, config.qk_rope_head_dim, bits)
    return Here(
        MeasuredStepTime(operators, host or Host(*host_us(config, source, dtype, main.bytes // main.calls))),
        ceiling,
        config,
        dtype,
        weight_bytes(config, Layout(), on_cpus(config, options.weights, dtype), mtp=True),
        row.bytes(dtype) * config.num_hidden_layers,
    )
