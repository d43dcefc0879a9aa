"""A table in which every kernel of the demo model takes so many times its floor."""

from fullbore.engine.options import EngineOptions
from fullbore.hardware.ceiling import Ceiling
from fullbore.kernels.catalogue import CATALOGUE
from fullbore.model.checkpoint import Checkpoint
from fullbore.model.config import load_config
from fullbore.model.convert import Converted
from fullbore.model.locate import locate
from fullbore.model.weights import STORED, recipe
from fullbore.model.workload import workload
from fullbore.ops.code import codes
from fullbore.ops.estimate import Estimator
from fullbore.ops.operators import OPERATORS
from fullbore.ops.times import Times, Timing
from fullbore.steptime.measured import Host

PEAKS = {"float32": 1e11, "bfloat16": 2e11, "int8": 4e11}
THEN = Ceiling(2e10, PEAKS)
HOST_US = Host(900.0, 40.0)
OPTIONS = EngineOptions(model=str(locate("demo")), dtype="float32", concurrency=4)


def records(slower: float, weights: str = STORED, kv_bits: int = 0, dtype: str = "float32") -> list[Timing]:
    """``slower``: times the floor."""
    checkpoint = Checkpoint.open(locate("demo"), load_config(locate("demo")))
    source = Converted(checkpoint, checkpoint.specs, recipe(weights))
    work, known = workload(checkpoint.config, source, dtype, kv_bits), codes(CATALOGUE)
    estimator = Estimator(Times(), known, THEN, work.sizes)
    made = []
    for job in work.jobs:
        arithmetic = OPERATORS[job.operator].arithmetic(job.format, job.dtype)
        for entry in CATALOGUE.on("cpu").candidates(job.operator):
            for tokens in (1, 16, 256):
                for context in (0, 256):
                    cost = estimator.cost(job, tokens, context)
                    floor = max(THEN.floor_us(cost.flops, cost.bytes, arithmetic), 1e-6)
                    us = slower * floor
                    made.append(
                        Timing(
                            estimator.subject(job), entry.name, known[job.operator, entry.name],
                            tokens, context, 30, 1.0, us, us, us, floor, "read", 1,
                        )
                    )  # fmt: skip
    return made


def table(slower: float) -> Times:
    """Of the model as it is served unless told otherwise."""
    return Times(records(slower))
