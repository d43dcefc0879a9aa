"""The step time of a model on this machine, from a table whose every time is known."""

import pytest

from fullbore.engine.options import EngineOptions
from fullbore.hardware.ceiling import Ceiling
from fullbore.kernels.catalogue import CATALOGUE
from fullbore.model.checkpoint import Checkpoint
from fullbore.model.config import load_config
from fullbore.model.locate import locate
from fullbore.model.workload import workload
from fullbore.ops.code import codes
from fullbore.ops.estimate import Estimator
from fullbore.ops.operators import OPERATORS
from fullbore.ops.times import Times, Timing
from fullbore.plan.here import here
from fullbore.steptime.measured import Host
from fullbore.steptime.step import HOST, Step
from fullbore.steptime.table import TimesMissing

PEAKS = {"float32": 1e11, "bfloat16": 2e11, "int8": 4e11}
THEN = Ceiling(2e10, PEAKS)
OPTIONS = EngineOptions(model=str(locate("demo")), dtype="float32", concurrency=4)


HOST_US = Host(900.0, 40.0)


def table(slower: float) -> Times:
    """Every kernel takes ``slower`` times the floor."""
    checkpoint = Checkpoint.open(locate("demo"), load_config(locate("demo")))
    work, known = workload(checkpoint.config, checkpoint, "float32"), codes(CATALOGUE)
    estimator = Estimator(Times(), known, THEN, work.sizes)
    records = []
    for job in work.jobs:
        arithmetic = OPERATORS[job.operator].arithmetic(job.format, job.dtype)
        for entry in CATALOGUE.on("cpu").candidates(job.operator):
            for tokens in (1, 16, 256):
                for context in (0, 256):
                    cost = estimator.cost(job, tokens, context)
                    floor = max(THEN.floor_us(cost.flops, cost.bytes, arithmetic), 1e-6)
                    us = slower * floor
                    records.append(
                        Timing(
                            estimator.subject(job), entry.name, known[job.operator, entry.name],
                            tokens, context, 30, 1.0, us, us, us, floor, "read", 1,
                        )
                    )  # fmt: skip
    return Times(records)


@pytest.mark.parametrize("slower", [1.0, 3.0])
def test_operators_take_what_the_table_says(slower: float) -> None:
    times = here(OPTIONS, THEN, table(slower), HOST_US).step_time
    for step in (Step.of([50] * 3), Step.of([300], [(40, 0)]), Step.of([], [(100, 20)])):
        terms = dict(times.of(step).terms_s)
        assert terms.pop(HOST) > 0
        assert sum(terms.values()) == pytest.approx(slower * times.floor_s(step), rel=0.01)


def test_slower_memory_makes_slower_steps() -> None:
    step, known = Step.of([50] * 3), table(1.5)
    fast, slow = (here(OPTIONS, Ceiling(read, PEAKS), known, HOST_US).step_time for read in (2e10, 1e10))
    assert slow.floor_s(step) > fast.floor_s(step)
    assert sum(slow.of(step).terms_s.values()) > 1.2 * fast.floor_s(step)


def test_without_times_it_says_how_to_get_some() -> None:
    with pytest.raises(TimesMissing, match=r"add_rms_norm by .*route by .*fullbore tune"):
        here(OPTIONS, THEN, Times(), HOST_US)
