"""What is said where a GPU's memory is short, and what is left for whom. Memory runs short by injection."""

from pathlib import Path

import pytest
import torch
from late_stream import LateStream
from tiny_checkpoint import write_checkpoint

from fullbore.engine import process
from fullbore.engine.memory import CACHING, CAPTURING, LOADING, REHEARSING, Accounted, Holdings, Phase
from fullbore.engine.options import EngineOptions
from fullbore.engine.rehearsal import rehearse
from fullbore.engine.runner import Runner
from fullbore.engine.sizing import GIB, GPU_CACHE_SHARE, size_cache
from fullbore.engine.step import Step
from fullbore.engine.stream import Immediate
from fullbore.errors import CapacityError
from fullbore.hardware.device import Device
from fullbore.model.deepseek import DeepseekV3
from fullbore.model.load import load_model

WORDS = "HIP out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 139.80 GiB"
OPTIONS = EngineOptions("x", max_num_seqs=200, max_num_batched_tokens=4096)


class Card(Device):
    def free_bytes(self) -> int:
        return GIB // 4


@pytest.fixture
def holdings() -> Holdings:
    held = Holdings(Card("cuda", "cuda"), OPTIONS)
    held.weights, held.cache, held.graphs = 80 * GIB, 50 * GIB, GIB // 2
    return held


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DeepseekV3:
    return load_model(write_checkpoint(tmp_path_factory.mktemp("tiny")), "float32")


@pytest.mark.parametrize(
    ("phase", "advice"),
    [
        (LOADING, "lower --weights from stored to a smaller format"),
        (REHEARSING, "lower --max-num-batched-tokens from 4096 or --max-num-seqs from 200"),
        (CACHING, "lower --kv-gb from 50.00 to 48.50"),
        (CAPTURING, "--kv-gb from 50.00 to 48.50 or --cuda-graph-max-bs from 200, or --disable-cuda-graph"),
    ],
)
def test_a_shortage_names_what_to_lower_and_by_how_much(
    holdings: Holdings, phase: Phase, advice: str
) -> None:
    with pytest.raises(CapacityError) as caught, holdings.during(phase):
        raise torch.OutOfMemoryError(WORDS)
    told = str(caught.value)
    assert phase.name in told
    assert "1.50 GiB more were wanted, 0.25 GiB are free" in told
    assert "weights 80.00 GiB, cache 50.00 GiB, graphs 0.50 GiB" in told
    assert advice in told


def test_a_shortage_that_ended_a_capture_is_found_behind_the_captures_own_error(holdings: Holdings) -> None:
    def capture() -> None:
        try:
            raise torch.OutOfMemoryError(WORDS)
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    with pytest.raises(CapacityError, match="capturing graphs"), holdings.during(CAPTURING):
        capture()


def test_other_errors_stay_what_they_are(holdings: Holdings) -> None:
    with pytest.raises(RuntimeError, match="something else"), holdings.during(CAPTURING):
        raise RuntimeError("something else")


def test_a_step_that_is_short_of_memory_says_so_and_can_be_run_again(
    model: DeepseekV3, holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_device_runner import first_step

    def short(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError(WORDS)

    runner = Runner(model, 20, 4, (), Accounted(Immediate(), holdings))
    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", short)
        with pytest.raises(CapacityError, match=r"computing a step.*--max-num-batched-tokens from 4096"):
            runner.launch(first_step())
    again = Step(1, first_step().rows)
    assert runner.launch(again).sampled() == Runner(model, 20, 4, ()).launch(first_step()).sampled()


def test_the_largest_steps_are_as_large_as_any_that_the_scheduler_may_plan(
    model: DeepseekV3, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda batch, cache: seen.append(batch) or forward(batch, cache))
    options = EngineOptions("x", page_size=4, max_num_seqs=7, max_num_batched_tokens=32)
    rehearse(model, LateStream(), options, 100)
    chunk, whole, cut = seen
    assert chunk.prefills == ((0, 32, 68),)
    assert chunk.contexts.tolist() == [100]
    assert len(chunk.page_table[0]) == 25
    for batch in (whole, cut):
        assert (batch.decode_rows, len(batch.logits_at)) == (7, 7)


def test_a_gpu_gives_the_cache_all_that_steps_leave_but_a_margin_for_graphs() -> None:
    options = EngineOptions("x", max_num_seqs=2, page_size=16)
    assert size_cache(options, 100, 1000, GIB, on_gpu=True).pages == int(GIB // 1000 * GPU_CACHE_SHARE)
    assert size_cache(options, 100, 1000, GIB).pages == 2 * 7


def test_flags_of_graphs_reach_the_engine(tmp_path: Path) -> None:
    import argparse

    from fullbore.server import command

    parser = argparse.ArgumentParser()
    command.configure(parser)
    folder = write_checkpoint(tmp_path)
    told = [
        command._engine_options(parser.parse_args(["demo", *flags]), folder)
        for flags in ([], ["--enforce-eager"], ["--cuda-graph-max-bs", "40"])
    ]
    assert [(each.cuda_graph, each.cuda_graph_max_bs) for each in told] == [(True, 0), (False, 0), (True, 40)]


def test_a_start_that_is_short_of_memory_says_what_it_was_doing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: object) -> DeepseekV3:
        raise torch.OutOfMemoryError(WORDS)

    monkeypatch.setattr("fullbore.model.load.load_model", short)
    with pytest.raises(CapacityError, match="out of memory on the device while loading the weights"):
        process._build(EngineOptions(str(write_checkpoint(tmp_path))), None)  # type: ignore[arg-type]
