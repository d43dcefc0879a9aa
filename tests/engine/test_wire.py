"""What travels between the processes, and the directory in which it does."""

import fcntl
import os
import socket
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.engine import wire
from fullbore.engine.messages import (
    Abort,
    Command,
    Emitted,
    Hello,
    Outputs,
    Sampling,
    Shutdown,
    Stats,
    Submit,
    TokenLogprob,
)
from fullbore.engine.wire import Decoder, EngineWire, RunDir
from fullbore.errors import CapacityError

commands = st.one_of(
    st.builds(
        Submit,
        st.integers(0, 2**62),
        st.lists(st.integers(0, 2**31)),
        st.integers(1, 2**31),
        st.builds(
            Sampling,
            temperature=st.floats(0, 2),
            seed=st.none() | st.integers(-(2**63), 2**63 - 1),
            logit_bias=st.dictionaries(st.integers(0, 2**20), st.floats(-100, 100)),
            stop_token_ids=st.lists(st.integers(0, 2**20)).map(tuple),
        ),
        st.text(),
    ),
    st.builds(Abort, st.integers(0, 2**62)),
    st.builds(Shutdown),
    st.builds(Hello, st.integers(0, 99), st.text()),
)


@given(commands)
def test_a_command_arrives_as_it_was_sent(command: Command) -> None:
    assert Decoder().command([msgspec.msgpack.encode(command)]) == command


@given(
    st.lists(
        st.builds(
            Emitted, st.integers(0, 2**62), st.integers(-1, 2**20), logprob=st.none() | st.floats(-99, 0)
        )
    )
)
def test_a_report_arrives_as_it_was_sent(events: list[Emitted]) -> None:
    report = Outputs([*events, Emitted(1, 2, top=[TokenLogprob(3, -0.5)])], Stats(steps=7))
    assert Decoder().report([msgspec.msgpack.encode(report)]) == report


@given(st.binary(max_size=200), commands, st.data())
def test_bytes_that_are_no_message_are_dropped_and_counted(
    noise: bytes, command: Command, data: st.DataObject
) -> None:
    whole = msgspec.msgpack.encode(command)
    cut = data.draw(st.integers(0, len(whole) - 1))
    decoder = Decoder()
    assert decoder.command([whole[:cut]]) is None
    assert decoder.command([whole, b""]) is None
    assert decoder.report([whole]) is None or isinstance(command, Hello)
    before = decoder.dropped
    assert before >= 2
    found = decoder.command([noise])
    assert decoder.dropped == before + (found is None)


@pytest.mark.parametrize(
    "value",
    [
        {"type": "submit", "request": "1", "prompt": [1], "max_tokens": 1},
        {"type": "submit", "request": 1, "prompt": [1.5], "max_tokens": 1},
        {"type": "submit", "request": 1, "prompt": [True], "max_tokens": 1},
        {"type": "submit", "request": 1, "prompt": [1]},
        {"type": "exec", "code": "1"},
        ["submit", 1],
        None,
    ],
)
def test_a_command_of_wrong_types_is_no_command(value: object) -> None:
    assert Decoder().command([msgspec.msgpack.encode(value)]) is None


def test_a_run_directory_is_private_fresh_and_removed(run_root: Path) -> None:
    first, second = RunDir(), RunDir()
    assert first.path != second.path
    assert first.path.parent == run_root
    assert first.path.stat().st_mode & 0o777 == 0o700
    for run_dir in (first, second, first):
        run_dir.close()
    assert list(run_root.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_is_in_use_stays(run_root: Path) -> None:
    in_use, left, recent, others = (
        run_root / f"fullbore-engine-{name}" for name in ("used", "left", "new", "other")
    )
    for path in (in_use, left, recent, others):
        path.mkdir()
    for path in (in_use, left, recent):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path / "commands"))
    old = time.time() - 3600
    for path in (in_use, left, others):
        os.utime(path, (old, old))
    lock = os.open(in_use, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    RunDir().close()
    os.close(lock)
    assert set(run_root.iterdir()) == {in_use, recent, others}


def test_a_path_too_long_for_a_socket_is_refused_with_advice(
    run_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = run_root / ("x" * 90)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with pytest.raises(CapacityError, match="TMPDIR"):
        RunDir()
    assert list(deep.iterdir()) == []


def test_without_a_run_time_directory_the_temporary_one_serves(
    run_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent")
    monkeypatch.setattr(wire.tempfile, "tempdir", str(run_root))
    run_dir = RunDir()
    assert run_dir.path.parent == run_root
    run_dir.close()


def test_an_engine_that_nobody_speaks_to_waits_no_longer_than_asked(run_root: Path) -> None:
    run_dir = RunDir()
    engine = EngineWire(run_dir.path)
    assert engine.receive(0.0) == []
    assert engine.receive(0.05) == []
    engine.close(linger_s=0.0)
    run_dir.close()
