"""A GPU's start and service, on the CPU in its place: the same code with another stream."""

from pathlib import Path

import pytest
from late_stream import LateStream, Wire
from tiny_checkpoint import EOS, write_checkpoint

from fullbore.engine import process
from fullbore.engine.loop import Loop
from fullbore.engine.messages import Ready, Sampling, Submit
from fullbore.engine.offline import answers
from fullbore.engine.options import EngineOptions
from fullbore.errors import CapacityError
from fullbore.hardware.device import CPU, Device
from fullbore.model.load import load_model

PROMPTS = [[1, 5, 9, 20], [3, 4, 5, 6, 7, 8, 9, 10, 11], [7]]


class Pretended(Device):
    """A GPU to everybody but torch and the choice of kernels."""

    def free_bytes(self) -> int:
        return 1 << 22


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[LateStream]:
    """Every stream that a start makes; tensors lie on the CPU whatever the device is called."""
    made: list[LateStream] = []

    def stream_of(device: Device) -> LateStream:
        made.append(LateStream(len(made)))
        return made[-1]

    real = load_model

    def load_on_the_cpu(*args: object) -> object:
        return real(*(CPU if isinstance(each, Device) else each for each in args))  # type: ignore[arg-type]

    monkeypatch.setattr("fullbore.engine.startup.stream_of", stream_of)
    monkeypatch.setattr("fullbore.hardware.device.find_device", lambda name: Pretended("cuda", "cuda"))
    monkeypatch.setattr("fullbore.model.load.load_model", load_on_the_cpu)
    return made


def started(folder: Path, wire: Wire, **changes: object) -> Loop:
    sizes = {"page_size": 4, "max_num_seqs": 6, "max_num_batched_tokens": 16, "threads": 1}
    options = EngineOptions(str(folder), dtype="float32", **(sizes | changes))  # type: ignore[arg-type]
    return process._build(options, wire)  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{}, {"cuda_graph": False}, {"cuda_graph_max_bs": 2}])
def test_a_gpus_start_and_answers(
    tmp_path: Path, streams: list[LateStream], changes: dict[str, object]
) -> None:
    folder = write_checkpoint(tmp_path)
    wire = Wire([Submit(n, prompt, 9, Sampling(temperature=0.0)) for n, prompt in enumerate(PROMPTS)])
    loop = started(folder, wire, **changes)
    (ready,) = [report for report in wire.reports if isinstance(report, Ready)]
    assert ready.eos_token_ids == [EOS]
    assert loop._lookahead == 1
    loop.drain()
    loop.run()
    expected = answers(load_model(folder, "float32"), PROMPTS, 9)
    found = [[event.token for event in wire.events(number)] for number in range(len(PROMPTS))]
    assert found == expected


def test_a_cache_that_leaves_no_room_is_refused(tmp_path: Path, streams: list[LateStream]) -> None:
    with pytest.raises(CapacityError, match=r"--kv-gb 1 exceeds the 0\.0 GiB free"):
        started(write_checkpoint(tmp_path), Wire([]), kv_gb=1.0)
