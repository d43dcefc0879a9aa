"""Times within a graph, and kernels that cannot go into one, on a device that is made up."""

import itertools
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from fake_stream import FakeStream
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toy_kernels import PROBES, Toy, entry

from fullbore.ops.contract import Job, Kernel
from fullbore.ops.demand import Workload
from fullbore.ops.place import moved
from fullbore.ops.registry import Entry, Registry
from fullbore.ops.times import Times, Timing
from fullbore.scenario.mix import StepShape
from fullbore.tune.gate import Gate
from fullbore.tune.graphs import LEAST_CALLS, GraphTimer
from fullbore.tune.points import Mode
from fullbore.tune.timing import Effort, Rotation, compare
from fullbore.tune.tuner import Bench, Tuner

JOB = Job("linear", (("in", 64), ("out", 32)), "bf16", "float32", "cpu")
STREAM = FakeStream()


class Device(Toy):
    """Computes when the device does."""

    name = "device"
    us = 30.0

    def run(self, packed: Any, *inputs: Any) -> Any:
        y = torch.full((len(inputs[0]), len(packed)), float("nan"))
        STREAM.launch(lambda: y.copy_(inputs[0] @ packed.T), 1e-6 * self.us)  # type: ignore[arg-type]
        return y


class Waits(Device):
    """Looks at a value on the host, as a library does that counts the tokens of its experts there."""

    name = "waits"
    us = 1.0

    def run(self, packed: Any, *inputs: Any) -> Any:
        STREAM.wait()
        return super().run(packed, *inputs)


class Remembers(Device):
    """Decides by values when it is launched: right until it is replayed with others."""

    name = "remembers"
    us = 1.0

    def run(self, packed: Any, *inputs: Any) -> Any:
        return super().run(packed, inputs[0].clone())


@given(st.floats(1, 1e4), st.integers(1, 40))
def test_a_call_in_a_graph_takes_what_the_device_takes(us: float, period: int) -> None:
    stream = FakeStream()
    warm = GraphTimer(stream, stream.clock).warm(lambda: stream.launch(lambda: None, us * 1e-6), period)
    assert warm.seconds == pytest.approx(us * 1e-6)
    assert warm.read() == pytest.approx(us * 1e-6)


@given(st.integers(1, 40), st.integers(1, 9))
def test_a_graph_holds_whole_rounds_of_copies(copies: int, inputs: int) -> None:
    stream, seen = FakeStream(), []

    def run(copy: int, value: int) -> None:
        stream.launch(lambda: seen.append((copy, value)), 1e-6)

    call = Rotation(run, range(copies), [(number,) for number in range(inputs)])
    warm = GraphTimer(stream, stream.clock).warm(call, call.period)
    seen.clear()
    warm.read()
    assert len(seen) >= LEAST_CALLS
    assert len(seen) % call.period == 0
    counts = [sum(copy == number for copy, _ in seen) for number in range(copies)]
    assert max(counts) - min(counts) <= 1, "each copy in its turn"


def test_candidates_take_turns_by_replays() -> None:
    stream, seen = FakeStream(), []
    calls = [
        lambda name=name, us=us: stream.launch(lambda: seen.append(name), us * 1e-6)
        for name, us in (("a", 5.0), ("b", 9.0))
    ]
    found = compare(calls, Effort(1e9, 4, 4), GraphTimer(stream, stream.clock))
    assert [spread.median_us for spread in found] == pytest.approx([5.0, 9.0])
    assert "".join(name for name, _ in itertools.groupby(seen)).endswith("abababab")


def test_what_cannot_be_captured_is_timed_with_its_launches() -> None:
    stream = FakeStream()

    def call() -> None:
        stream.wait()
        stream.launch(lambda: None, 5e-6)

    warm = GraphTimer(stream, stream.clock).warm(call, 1)
    assert warm.read() == pytest.approx(5e-6 + FakeStream.LAUNCH_S)


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (Waits, "cannot be captured in a graph.*decode steps are replayed"),
        (Remembers, "replayed from a graph"),
    ],
)
def test_the_gate_refuses_what_a_decode_step_cannot_replay(kernel: type[Kernel], words: str) -> None:
    verdict = Gate({}, lambda: 1.0, stream=STREAM).examine(JOB, kernel)
    assert not verdict.passed
    assert verdict.reason.startswith("refused: ")
    assert re.search(words, verdict.reason)
    without = Gate({}, lambda: 1.0).examine(JOB, kernel)
    assert without.passed, "on a CPU there are no graphs"


def test_the_gate_passes_what_computes_on_the_device() -> None:
    verdict = Gate({}, lambda: 1.0, stream=STREAM).examine(JOB, Device)
    assert verdict.passed, verdict.reason


def test_the_tuner_times_in_graphs() -> None:
    kernels = Registry([entry_of(each) for each in (Device, Waits)])
    bench = Bench(PROBES, 1 << 16, 1 << 30, GraphTimer(STREAM, STREAM.clock), lambda: 1.0, stream=STREAM)
    mode = Mode("toy", (1, 8), (), Effort(0.0, 3, 3), 1.0)
    mix = (StepShape(1, 100, (), 1, 1.0),)
    kept: list[Any] = []
    Tuner(kernels, Workload({(JOB,): 2}, {}, bytes=1 << 16), mix, mode, bench, Times(), kept.extend).run()
    timed = [record for record in kept if isinstance(record, Timing)]
    assert {timing.kernel for timing in timed} == {"device"}
    assert [timing.median_us for timing in timed] == pytest.approx([30.0, 30.0])


def entry_of(kernel: type[Kernel]) -> Entry:
    return replace(entry(kernel), path=f"test_graphs:{kernel.__name__}")


def test_inputs_are_moved_in_tuples() -> None:
    given_ = (torch.ones(2), (torch.ones(1, dtype=torch.int32), 7), "x")
    there = moved(given_, "meta")
    assert there[0].is_meta
    assert there[1][0].is_meta
    assert there[1][1:] == (7,)
    assert there[2] == "x"
    assert isinstance(moved(torch.ones(1), "cpu"), Tensor)
