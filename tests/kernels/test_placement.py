"""Where the pool's workers stay, and that the caller's thread is left alone."""

import json
import os
import subprocess
import sys

import pytest

from fullbore.errors import UsageError
from fullbore.hardware.topology import Cpu
from fullbore.kernels.cpu.placement import places

# Two nodes of two cores, each core of two processors; and one node.
TWO_NODES = tuple(Cpu(core // 2, core, number) for core in range(4) for number in (core, core + 4))
ONE_NODE = tuple(Cpu(0, number, number) for number in range(4))

# Prints each thread's processors, in a process that may use those given, once the pool has run a call.
CHILD = """
import ctypes, json, os, sys
os.sched_setaffinity(0, json.loads(sys.argv[1]))
import torch
torch.set_num_threads(int(sys.argv[2]))
from fullbore.kernels.cpu.native import native
pool = native()
pool.lib.fb_peak_probe.restype = ctypes.c_double
pool.lib.fb_peak_probe(pool.pool, ctypes.c_int64(0))
masks = {int(task): sorted(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")}
caller = masks.pop(os.getpid())
print(json.dumps([caller, list(masks.values())]))
"""


def test_unless_told_workers_stay_where_no_other_choice_is_left() -> None:
    assert places({}, 4, TWO_NODES) == (0, 1, 2, 3)
    assert places({}, 8, TWO_NODES) == (0, 4, 1, 5, 2, 6, 3, 7)
    assert places({}, 3, TWO_NODES) == ()  # which three?
    assert places({}, 9, TWO_NODES) == ()
    assert places({}, 4, ONE_NODE) == ()
    assert places({"FULLBORE_PIN": "0"}, 4, TWO_NODES) == ()
    assert places({"FULLBORE_PIN": "yes"}, 3, TWO_NODES) == (0, 1, 2)
    assert places({"FULLBORE_PIN": "1"}, 2, ONE_NODE) == (0, 1)


def test_what_cannot_be_followed_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert places({"FULLBORE_PIN": "1"}, 5, ONE_NODE) == ()
    assert "5 threads and 4 processors" in caplog.text
    with pytest.raises(UsageError, match=r"FULLBORE_PIN='maybe': expected one of 1, true"):
        places({"FULLBORE_PIN": "maybe"}, 2, ONE_NODE)


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two processors"
)
@pytest.mark.parametrize(("pin", "count"), [("1", 2), ("0", 2), ("1", 1)])
def test_workers_are_pinned_and_the_caller_is_not(pin: str, count: int) -> None:
    allowed = sorted(os.sched_getaffinity(0))[:count]
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(allowed), "2"],
        env={**os.environ, "FULLBORE_PIN": pin},
        capture_output=True,
        text=True,
        check=True,
    )
    caller, others = json.loads(ran.stdout)
    assert caller == allowed
    assert others
    pinned = [mask for mask in others if len(mask) == 1 < len(allowed)]
    assert pinned == ([[allowed[1]]] if (pin, count) == ("1", 2) else [])
