"""The engine process: ``python -m fullbore.engine.process LAUNCH``, started by ``engine.client``.

Its life: greet, load with progress, ready, serve, end. It ends on Shutdown, on SIGTERM once the requests that
it has are answered, and when its parent dies. SIGINT is the server's to judge. It keeps the priority it was
given: a lower one would put it behind every other job of the machine, and the HTTP process, which sleeps most
of the time, gets its turn as it is.
"""

import ctypes
import hashlib
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fullbore import __version__
from fullbore.engine.loop import Loop
from fullbore.engine.loop import Runner as AnyRunner
from fullbore.engine.messages import PROTOCOL, Failed, Hello, Progress, Ready, Sampling
from fullbore.engine.options import EngineOptions
from fullbore.engine.scheduler import Scheduler
from fullbore.engine.step import Row, Started, Step
from fullbore.engine.wire import EngineWire
from fullbore.errors import CheckpointError, FullboreError
from fullbore.hardware.limits import usable_cores

_GREETING_S = 30.0
_PROGRESS_EVERY_S = 0.1
_SAMPLES, _SAMPLE_BYTES = 64, 4096
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_log = logging.getLogger(__name__)


class Launch(msgspec.Struct, frozen=True):
    """The process's only argument, as JSON."""

    run_dir: str
    parent: int  # process id; its death is ours
    options: EngineOptions


class ProtocolError(FullboreError):
    """Server and engine are of different versions."""


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 after a clean end, 1 when the engine could not start (it then said why in ``Failed``)."""
    launch = msgspec.json.decode(arguments[0], type=Launch)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(launch.parent)
    logging.basicConfig(format="%(asctime)s engine %(levelname)s %(message)s", stream=sys.stderr)
    _log.setLevel(logging.INFO)
    wire = EngineWire(Path(launch.run_dir))
    try:
        greet(wire, _GREETING_S)
        loop = _build(launch.options, wire)
    except FullboreError as error:
        wire.send(failure(str(error)))
        wire.close()
        return 1
    except Exception as error:  # noqa: BLE001 - whatever it is, the server must hear of it
        _log.exception("the engine could not start")
        wire.send(failure(_explain(error)))
        wire.close()
        return 1
    signal.signal(signal.SIGTERM, lambda _signal, _frame: loop.drain())
    try:
        loop.run()
    finally:
        wire.close()
    return 0


def failure(message: str) -> Failed:
    """``message`` as a report. A name from a checkpoint that it quotes may be no Unicode: escaped then."""
    return Failed(message.encode("utf-8", "backslashreplace").decode())


def greet(wire: EngineWire, patience_s: float) -> None:
    """Say and expect Hello; ProtocolError when the server speaks another protocol, or nothing."""
    wire.send(Hello(PROTOCOL, __version__))
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        for command in wire.receive(0.5):
            if not isinstance(command, Hello):
                continue
            if command.protocol != PROTOCOL:
                raise ProtocolError(
                    f"the server speaks protocol {command.protocol} (fullbore {command.version}), its engine "
                    f"{PROTOCOL} (fullbore {__version__}): start both from one installation"
                )
            return
    raise ProtocolError(f"the server did not greet its engine within {patience_s:g} s")


def _build(options: EngineOptions, wire: EngineWire) -> Loop:
    """Load the model, make the cache, try a step, announce Ready."""
    # Imported here so that a peer of another version is refused at once, not after torch has loaded.
    import torch

    from fullbore.engine.emulation import emulation_of
    from fullbore.engine.memory import LOADING
    from fullbore.engine.startup import Startup
    from fullbore.hardware.device import find_device
    from fullbore.model.config import load_config
    from fullbore.model.load import load_model
    from fullbore.model.locate import locate
    from fullbore.ops.setting import Setting
    from fullbore.ops.tuned import Tuned, shortfalls

    torch.set_num_threads(options.threads or usable_cores())
    device = find_device(options.device)
    folder = locate(options.model)
    reported = -_PROGRESS_EVERY_S

    def progress(done: int, total: int) -> None:
        nonlocal reported
        now = time.monotonic()
        if done >= total or now - reported >= _PROGRESS_EVERY_S:
            reported = now
            wire.send(Progress(done, total))

    setting = Setting.of(
        options.scenario,
        options.concurrency,
        options.threads,
        options.max_num_batched_tokens,
        device.kind,
    )
    tuned = Tuned(setting.store.load(), setting.mix, options.by_tokens, device.free_bytes())
    emulation = emulation_of(options, load_config(folder), device.usual_links)
    startup = Startup(options, device)
    with startup.holdings.during(LOADING):
        model = load_model(
            folder,
            options.dtype,
            progress,
            tuned,
            options.weights,
            options.kv_cache_dtype,
            device,
            emulation.role,
            options.random_weights,
        )
    startup.note_weights(model)
    for line in shortfalls(model.selection):
        _log.warning("%s", line)
    config = model.config
    # Of one token, as a page of any size that was asked for may be more than there is.
    token_bytes = sum(layer.nbytes for layer in model.new_cache(1, 1))
    sizes = startup.size(model, token_bytes)
    scheduler = Scheduler(
        pages=sizes.pages,
        page_size=options.page_size,
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        max_queued=options.max_queued,
        max_model_len=sizes.max_model_len,
        eos_token_ids=config.eos_token_ids,
        prefix_caching=options.prefix_caching,
    )
    runner = startup.runner(model, sizes)
    _try(runner, config.bos_token_id or 0, folder)
    if startup.told:
        _log.info("%s", startup.told)
    wire.send(
        Ready(
            vocab_size=config.vocab_size,
            max_model_len=sizes.max_model_len,
            page_size=options.page_size,
            pages=sizes.pages,
            eos_token_ids=list(config.eos_token_ids),
            fingerprint=fingerprint(folder, emulation.mark),
            kv_cache_dtype="fp8"
            if model.row.bits == 8
            else str(model.row.type(model.dtype)).removeprefix("torch."),
            kv_bytes_per_token=token_bytes,
            weights=model.format,
            conversion=model.conversion,
            emulated=emulation.mark,
            emulates=list(emulation.notes),
            groups=emulation.groups,
            weight_bytes=model.bytes,
        )
    )
    # The CPU has finished a step when its launch returns; a GPU works on it while the next is planned.
    return Loop(scheduler, runner, wire, config.vocab_size, lookahead=0 if device.kind == "cpu" else 1)


def _try(runner: AnyRunner, token: int, folder: Path) -> None:
    """One step of one token before anybody waits for it: first calls are slow, and damage shows at once."""
    row = Row(request=0, first=0, count=1, pages=(0,), samples=True)
    started = Started(0, (token,), Sampling(temperature=0.0))
    result = runner.launch(Step(0, (row,), (started,), (0,))).sampled()[0]
    if result.error:
        raise CheckpointError(
            f"{folder}: the model's answer to the single token {token} is no number ({result.error}): "
            "a tensor of the checkpoint is damaged"
        )


def fingerprint(folder: Path, mark: str = "") -> str:
    """A hash of the config and of samples all over every weight file: cheap, and changes with the weights.
    ``mark``: what else they depend on."""
    digest = hashlib.blake2b(mark.encode(), digest_size=16)
    digest.update((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        if not path.is_file():  # a folder, or a link to what was never downloaded: none of the weights
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            for index in range(_SAMPLES):
                file.seek(index * max(0, size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _explain(error: Exception) -> str:
    short = isinstance(error, MemoryError) or "alloc" in str(error) or "out of memory" in str(error)
    if short:
        return (
            f"out of memory while starting ({error}): lower --kv-gb or --max-num-seqs, or use a smaller model"
        )
    return f"the engine could not start: {type(error).__name__}: {error} (its traceback is on stderr)"


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, even while it computes or is stopped."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
