"""The real engine process with a real, tiny model."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
from tiny_checkpoint import EOS, VOCAB, write_checkpoint

from fullbore.engine import process
from fullbore.engine.client import EngineClient
from fullbore.engine.messages import Failed, Hello, Progress, Ready, Report, Sampling
from fullbore.engine.options import EngineOptions
from fullbore.engine.process import ProtocolError, fingerprint, greet
from fullbore.engine.wire import EngineWire, RunDir
from fullbore.errors import CapacityError, CheckpointError, FullboreError, UsageError

GREEDY = Sampling(temperature=0.0, logprobs=0)
PATIENCE_S = 60.0  # generous: only a hang takes that long
PAGE = 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


def options_for(folder: Path, pages: int, **changes: object) -> EngineOptions:
    bytes_per_page = 2 * 32 * 4 * PAGE  # layers, latent, float32
    base = EngineOptions(
        str(folder),
        dtype="float32",
        page_size=PAGE,
        max_num_seqs=8,
        max_num_batched_tokens=32,
        threads=1,
        kv_gb=(pages + 0.5) * bytes_per_page / (1 << 30),
    )
    return msgspec.structs.replace(base, **changes)


@contextlib.asynccontextmanager
async def engine(options: EngineOptions) -> AsyncIterator[EngineClient]:
    client = await EngineClient.start(options)
    try:
        yield client
    finally:
        await client.close()


async def answer(
    client: EngineClient, prompt: list[int], count: int, sampling: Sampling
) -> list[tuple[int, float]]:
    events = [event async for event in client.generate(prompt, count, sampling)]
    assert events[-1].finish in ("length", "stop")
    return [(event.token, event.logprob or 0.0) for event in events]


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(("weights", "format"), [("stored", "bf16"), ("int8", "int8"), ("int4", "int4_g32")])
def test_weights_are_converted_and_it_says_so(checkpoint: Path, weights: str, format: str) -> None:
    async def test() -> None:
        async with engine(options_for(checkpoint, 8, weights=weights)) as client:
            assert client.ready.weights == format
            assert client.ready.conversion.startswith(f"weights as {weights}: ") == (weights != "stored")
            assert len(await answer(client, [1, 2, 3], 4, GREEDY)) == 4

    asyncio.run(test())


def test_answers_are_the_same_alone_in_company_and_through_preemption(checkpoint: Path) -> None:
    """And an abort frees its pages, and after a kill a new engine gives the same answers again."""
    common = [(11 * place) % VOCAB for place in range(20)]
    requests = [
        ([*common[: 5 + 3 * number], number], 10, GREEDY if number % 3 else Sampling(seed=number, logprobs=0))
        for number in range(6)
    ]

    async def test() -> None:
        async with engine(options_for(checkpoint, 200, prefix_caching=False)) as client:
            assert client.ready.pages == 200
            assert client.ready.max_model_len == 256
            assert client.ready.eos_token_ids == [EOS]
            assert client.ready.fingerprint == fingerprint(checkpoint)
            alone = [await answer(client, *request) for request in requests]
            assert client.stats.preemptions == 0
            async with contextlib.aclosing(
                client.generate([1, 2, 3], 200, Sampling(ignore_eos=True))
            ) as events:
                await anext(events)
                await until(lambda: client.stats.pages_used > 0)
            await until(lambda: client.stats.pages_used == 0)
            assert client.stats.steps < 200
        async with engine(options_for(checkpoint, 16, max_num_batched_tokens=8)) as client:
            for _ in range(2):
                together = await asyncio.gather(*(answer(client, *request) for request in requests))
                assert together == alone
            assert client.stats.preemptions > 0
            assert client.stats.prefix_hits > 0
            await until(lambda: client.stats.pages_used == 0)
            os.kill(client.pid, signal.SIGKILL)
            await until(lambda: not client.alive)
            await until(lambda: client.alive)
            assert await answer(client, *requests[0]) == alone[0]

    asyncio.run(test())


class Listener:
    """A wire that only keeps what is sent."""

    dropped = 0

    def __init__(self) -> None:
        self.reports: list[Report] = []

    def send(self, report: Report) -> None:
        self.reports.append(report)


def test_a_start_shows_progress_and_then_is_ready(checkpoint: Path) -> None:
    listener = Listener()
    process._build(options_for(checkpoint, 20), listener)  # type: ignore[arg-type]
    *loading, ready = listener.reports
    assert isinstance(ready, Ready)
    done = [report.done for report in loading if isinstance(report, Progress)]
    assert len(done) == len(loading) > 0
    assert done == sorted(done)
    last = loading[-1]
    assert isinstance(last, Progress)
    assert last.done == last.total


@pytest.mark.parametrize(
    ("given", "told", "bytes"),
    [
        ("auto", "float32", 2 * 32 * 4),
        ("bf16", "bfloat16", 2 * 32 * 2),
        ("fp8_e4m3", "fp8", 2 * (24 + 4 + 16)),
    ],
)
def test_a_smaller_type_holds_more_tokens_in_the_same_memory(
    checkpoint: Path, given: str, told: str, bytes: int
) -> None:
    listener = Listener()
    process._build(options_for(checkpoint, 60, kv_cache_dtype=given), listener)  # type: ignore[arg-type]
    ready = listener.reports[-1]
    assert isinstance(ready, Ready)
    assert (ready.kv_cache_dtype, ready.kv_bytes_per_token) == (told, bytes)
    assert ready.pages == int(60.5 * 2 * 32 * 4 // bytes)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"model": "/nonexistent/model"}, CheckpointError, "/nonexistent/model"),
        ({"kv_gb": 1e9}, CapacityError, "--kv-gb"),
        ({"page_size": 2**31 - 1, "kv_gb": 0}, CapacityError, "lower --page-size"),
        ({"max_model_len": 1000}, UsageError, "--max-model-len 1000"),
        ({"max_model_len": 200}, CapacityError, "--max-model-len"),
        ({"dtype": "int3"}, UsageError, "int3"),
        ({"kv_cache_dtype": "fp4"}, UsageError, "--kv-cache-dtype fp4.*auto, bf16, fp8"),
        ({"max_num_batched_tokens": 1}, UsageError, "max-num-batched-tokens"),
    ],
)
def test_what_cannot_start_says_which_flag_is_to_blame(
    checkpoint: Path, changes: dict[str, object], error: type[FullboreError], words: str
) -> None:
    with pytest.raises(error, match=words):
        process._build(options_for(checkpoint, 20, **changes), Listener())  # type: ignore[arg-type]


def test_weights_that_give_no_numbers_are_refused_before_serving(tmp_path: Path) -> None:
    damaged = write_checkpoint(tmp_path / "damaged", "model.layers.0.self_attn.o_proj.weight")
    with pytest.raises(CheckpointError, match=r"damaged.*not finite"):
        process._build(options_for(damaged, 20), Listener())  # type: ignore[arg-type]


def test_the_server_hears_the_engines_own_words_for_a_failed_start(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    async def test() -> None:
        with pytest.raises(FullboreError, match=r"model\.safetensors"):
            await EngineClient.start(options_for(folder, 20))

    asyncio.run(test())


def test_a_name_that_is_no_unicode_can_be_complained_of() -> None:
    report = process.failure("tensor \ud800x has the shape [1]")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=Failed).message == (
        "tensor \\ud800x has the shape [1]"
    )


def test_a_fingerprint_leaves_out_what_is_no_file(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    before = fingerprint(folder)
    (folder / "folder.safetensors").mkdir()
    (folder / "gone.safetensors").symlink_to("never-downloaded")
    assert fingerprint(folder) == before


def test_fingerprints_tell_weights_and_configs_apart(tmp_path: Path) -> None:
    first, second = (write_checkpoint(tmp_path / name) for name in "ab")
    assert fingerprint(first) == fingerprint(second)
    weights = second / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert fingerprint(first) != fingerprint(second)
    third = write_checkpoint(tmp_path / "c")
    (third / "config.json").write_text((third / "config.json").read_text() + "\n")
    assert fingerprint(first) != fingerprint(third)


@pytest.fixture
def wires(run_root: Path) -> Iterator[tuple[EngineWire, Callable[[bytes], None]]]:
    """An engine's end, and a way to say something to it."""
    run_dir = RunDir()
    wire = EngineWire(run_dir.path)
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.connect(f"ipc://{run_dir.path / 'commands'}")
    yield wire, socket.send
    context.destroy(linger=0)
    wire.close(linger_s=0.0)
    run_dir.close()


def test_a_server_of_another_version_is_refused_by_name(
    wires: tuple[EngineWire, Callable[[bytes], None]],
) -> None:
    wire, say = wires
    say(b"noise")
    say(msgspec.msgpack.encode(Hello(99, "7.7")))
    with pytest.raises(ProtocolError, match=r"speaks protocol 99 \(fullbore 7\.7\)"):
        greet(wire, PATIENCE_S)
    assert wire.dropped == 1


def test_a_server_that_says_nothing_is_not_waited_for(
    wires: tuple[EngineWire, Callable[[bytes], None]],
) -> None:
    with pytest.raises(ProtocolError, match="did not greet"):
        greet(wires[0], 0.1)
