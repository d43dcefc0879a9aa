"""Times with warm weights: where they are measured, and for how many bytes they stand."""

from typing import Any, ClassVar

import pytest
import torch
from toy_kernels import CLOCK, Toy

from fullbore.model.checkpoint import Checkpoint
from fullbore.model.config import load_config
from fullbore.model.locate import locate
from fullbore.model.workload import workload
from fullbore.ops.contract import Job
from fullbore.ops.demand import Workload
from fullbore.tune.points import Point, timed_sizes
from fullbore.tune.warm import Warm

SMALL = Job("linear", (("in", 64), ("out", 32)), "bf16", "float32", "cpu")
CACHE_BYTES = 1 << 20
LARGE = Job("linear", (("in", 512), ("out", 32)), "bf16", "float32", "cpu")


def test_only_what_a_cache_holds_is_read_warm() -> None:
    work = Workload({(SMALL,): 2, (LARGE,): 1}, {}, bytes=1 << 16)
    assert Warm(SMALL, work, 1 << 16, CLOCK).median_us(Toy, Point(8, 0)) == pytest.approx(10 + 10 * 8)
    assert Warm(LARGE, work, 1 << 16, CLOCK).median_us(Toy, Point(8, 0)) == 0.0


class Experts(Toy):
    """Takes a microsecond for each token, and says how many there were."""

    operator = "moe_ffn"
    seen: ClassVar[list[int]] = []

    def pack(self, *weights: Any) -> torch.Tensor:
        return torch.zeros(1)

    def run(self, packed: Any, *inputs: Any) -> Any:
        self.seen.append(len(inputs[0]))
        CLOCK.seconds += 1e-6 * len(inputs[0])


def test_few_experts_get_as_many_rows_each_and_stand_for_all() -> None:
    checkpoint = Checkpoint.open(locate("demo"), load_config(locate("demo")))
    work = workload(checkpoint.config, checkpoint, "float32")
    (job,) = {job for job in work.jobs if job.operator == "moe_ffn"}
    all_of_them = timed_sizes(work, job, 1 << 62)["experts"]
    few = timed_sizes(work, job, CACHE_BYTES // 2)["experts"]
    assert few < all_of_them
    tokens = 64
    us = Warm(job, work, CACHE_BYTES, CLOCK).median_us(Experts, Point(tokens, 0))
    assert set(Experts.seen) == {tokens * few // all_of_them}
    # Bytes grow with the number of experts, but for those of the shared one.
    assert us == pytest.approx(tokens, rel=0.2)
