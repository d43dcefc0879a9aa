"""What a network asks of its kernels, found without reading a weight; and built with what is chosen."""

import pytest
import torch
from small_models import DictSource, PagedRun, random_weights, small_config

from fullbore.kernels.catalogue import CATALOGUE
from fullbore.model.load import build
from fullbore.model.workload import workload
from fullbore.ops.code import codes
from fullbore.ops.demand import Workload, subject
from fullbore.ops.operators import OPERATORS
from fullbore.ops.registry import Registry
from fullbore.ops.selection import Selection
from fullbore.ops.times import Subject, Times, Timing
from fullbore.ops.tuned import Tuned
from fullbore.scenario.mix import StepShape

MIX = (StepShape(4, 50, ((30, 0),), 4, 1.0),)


def asked(**changes: object) -> Workload:
    config = small_config(**changes)
    return workload(config, DictSource(config, random_weights(config, 1), fp8=True), "float32")


@pytest.mark.parametrize("tied", [False, True])
def test_what_shares_weights_is_one_group(tied: bool) -> None:
    work = asked(tie_word_embeddings=tied)
    counts = {tuple(job.operator for job in group): count for group, count in work.groups.items()}
    assert counts["mla_decode", "mla_prefill"] == 3
    assert counts["moe_ffn",] == 2
    assert (counts.get(("embed", "linear"), 0) == 1) == tied
    assert ("embed",) not in counts or not tied
    heads = {head.operator: dict(head.shape) for head in work.heads}
    assert heads == {"linear": {"in": 64, "out": 101}, "greedy": {"vocab": 101}}


def test_sizes_that_weights_do_not_tell_come_from_the_config() -> None:
    work = asked()
    for job in work.jobs:
        shape = subject(job, work.sizes)
        assert shape.get("k", 3) == 3
        assert shape.get("heads", 4) == 4
        if job.operator in ("rope", "latents"):
            assert 8 in shape.values()


def test_recording_reads_no_value() -> None:
    config = small_config()
    source = DictSource(config, random_weights(config, 1))
    for name in source.tensors:
        source.tensors[name] = source.tensors[name].to("meta")
    assert workload(config, source, "float32").jobs
    assert source.released == []


def test_a_model_built_from_a_table_is_the_model() -> None:
    """Every time in place; the answers are those of the same kernels without a table."""
    config = small_config(tie_word_embeddings=True)
    source = DictSource(config, random_weights(config, 1))
    registry = Registry(entry for entry in CATALOGUE.entries if entry.name == "torch")
    work, known = workload(config, source, "float32"), codes(registry)
    times = Times(
        Timing(
            Subject.of(job, subject(job, work.sizes)), "torch", known[job.operator, "torch"], tokens, context,
            30, 1.0, 10.0, 9.0, 11.0, 1.0, "read", 1000,
        )
        for job in work.jobs for tokens in (1, 512)
        for context in ((0, 50) if "first" in OPERATORS[job.operator].shapes[0] else (50,))
    )  # fmt: skip
    made: list[Selection] = []

    def chosen(work: Workload, registry: Registry, dtype: str) -> Selection:
        made.append(Tuned(times, MIX, by_tokens=True, memory_bytes=1 << 30)(work, registry, dtype))
        return made[-1]

    (plain,) = PagedRun(build(config, source, "float32", registry), [[4, 5, 6]], 4, seed=1).finish([[3]])
    model = build(config, source, "float32", registry, selector=chosen)
    (tuned,) = PagedRun(model, [[4, 5, 6]], 4, seed=1).finish([[3]])
    assert torch.equal(plain, tuned)
    assert model.selection is made[0]
    assert all(choice.measured for choice in model.selection.choices.values())
