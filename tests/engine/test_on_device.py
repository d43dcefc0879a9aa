"""The whole engine on the kernels for GPUs, in Triton's interpreter (TRITON_INTERPRET=0: on a GPU)."""

from collections import deque
from pathlib import Path

import pytest
from late_stream import LateStream
from tiny_checkpoint import write_checkpoint

from fullbore.engine.messages import Emitted, Sampling, Submit
from fullbore.engine.offline import answers
from fullbore.engine.runner import Handle, Runner
from fullbore.engine.scheduler import Scheduler
from fullbore.engine.step import Step
from fullbore.engine.stream import stream_of
from fullbore.errors import UsageError
from fullbore.hardware.device import CPU, find_device
from fullbore.model.load import load_model

GREEDY = Sampling(temperature=0.0)
PROMPTS = [[1, 5, 9, 20], [3, 4, 5, 6, 7, 8, 9, 10, 11]]


@pytest.mark.parametrize("cache", ["auto", "fp8"])
def test_answers_are_those_of_the_cpu(tmp_path: Path, cache: str) -> None:
    pytest.importorskip("triton", reason="triton is not installed (pip install 'fullbore[gpu]')")
    folder = write_checkpoint(tmp_path)
    told = [
        answers(load_model(folder, "bfloat16", kv_cache_dtype=cache, device=device), PROMPTS, 4)
        for device in (CPU, find_device("cuda"))
    ]
    assert told[0] == told[1]


def test_launched_ahead_and_in_graphs_the_answers_are_the_same(tmp_path: Path) -> None:
    """On the kernels for GPUs, through a stream that is late; rows are added where a graph has more."""
    pytest.importorskip("triton", reason="triton is not installed (pip install 'fullbore[gpu]')")
    model = load_model(write_checkpoint(tmp_path), "bfloat16", device=find_device("cuda"))
    stream = stream_of(model.device) if model.device.place != "cpu" else LateStream(1)
    scheduler = Scheduler(20, 4, 4, 16, 4, 40, model.config.eos_token_ids)
    runner = Runner(model, 20, 4, model.config.eos_token_ids, stream, graph_rows=(3,), table_width=4)
    runner.capture()
    wishes = (Sampling(temperature=1e-3, top_p=0.9, seed=1), GREEDY)  # so cold that it draws the best
    submits = [Submit(n, p, 3, wish) for n, (p, wish) in enumerate(zip(PROMPTS, wishes, strict=True))]
    events = serve_ahead(scheduler, runner, submits)
    found = [[event.token for event in events if event.request == n] for n in range(len(PROMPTS))]
    assert found == answers(model, PROMPTS, 3)


def serve_ahead(scheduler: Scheduler, runner: Runner, submits: list[Submit]) -> list[Emitted]:
    """Every event; each step is launched before the one before it was read."""
    events: list[Emitted] = []
    flying: deque[tuple[Step, Handle]] = deque()
    for submit in submits:
        scheduler.submit(submit)
    while flying or not scheduler.idle:
        step = scheduler.plan()
        if step is not None:
            flying.append((step, runner.launch(step)))
        if flying and (step is None or len(flying) > 1):
            oldest, handle = flying.popleft()
            events += scheduler.commit(oldest, handle.sampled())
    return events


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert find_device("auto") == CPU
    with pytest.raises(UsageError, match=r"--device cuda: .*\(or use --device cpu\)"):
        find_device("cuda")


def test_float32_is_refused_on_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--dtype float32: kernels for GPUs compute in bfloat16"):
        load_model(write_checkpoint(tmp_path), "float32", device=find_device("cuda"))
