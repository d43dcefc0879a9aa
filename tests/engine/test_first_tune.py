"""The tuner before a first start: when it runs, what it is told, and that nothing about it stops a server."""

import asyncio
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from fullbore import flags
from fullbore.engine.first_tune import FirstTune
from fullbore.engine.options import EngineOptions
from fullbore.ops.setting import Setting, model_digest
from fullbore.ops.sources import source_code
from fullbore.ops.times import Covered
from fullbore.tune import command


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineOptions:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "config.json").write_text("{}")
    return EngineOptions(str(tmp_path), dtype="float32")


def covered(options: EngineOptions, **changes: object) -> None:
    record = Covered(model_digest(Path(options.model), "stored"), source_code(), "float32", 1.0)
    Setting.of("dialog").store.append([msgspec.structs.replace(record, **changes)])


def test_it_runs_until_this_model_was_measured_with_this_code(options: EngineOptions) -> None:
    auto = FirstTune("auto", options)
    assert auto.needed()
    for changes in ({"code": "older"}, {"dtype": "bfloat16"}, {"model": "another"}):
        covered(options, **changes)
        assert auto.needed()
    covered(options)
    assert not auto.needed()
    fp8 = msgspec.structs.replace(options, kv_cache_dtype="fp8")
    assert FirstTune("auto", fp8).needed(), "its attention is another job"
    covered(options, model=model_digest(Path(options.model), "stored", 8))
    assert not FirstTune("auto", fp8).needed()
    assert FirstTune("auto", msgspec.structs.replace(options, threads=77)).needed(), (
        "another machine, as it were"
    )
    assert FirstTune("auto", msgspec.structs.replace(options, weights="int4")).needed()
    (Path(options.model) / "config.json").write_text('{"hidden_size": 1}')
    assert auto.needed()


def test_it_can_be_turned_off_and_asked_for(options: EngineOptions) -> None:
    assert not FirstTune("off", options).needed()
    covered(options)
    assert FirstTune("quick", options).needed()
    assert FirstTune("thorough", options).needed()


@pytest.mark.parametrize("mode", ["auto", "thorough"])
def test_its_arguments_are_those_of_the_command(options: EngineOptions, mode: str) -> None:
    told = msgspec.structs.replace(
        options, scenario="code", concurrency=7, threads=3, weights="int8", kv_cache_dtype="fp8"
    )
    parser = flags.Parser(prog="fullbore tune")
    command.configure(parser)
    seen = flags.parse(parser, FirstTune(mode, told).arguments(), {})
    assert (seen.model, seen.dtype, seen.scenario) == (options.model, "float32", "code")
    assert seen.weights == "int8"
    assert (seen.concurrency, seen.threads, seen.quiet) == (7, 3, True)
    assert seen.kv_cache_dtype == "fp8"
    assert (seen.thorough, seen.only_choices) == (mode == "thorough", mode != "thorough")
    assert flags.parse(parser, FirstTune(mode, options).arguments(), {}).concurrency == 0


def run(tune: FirstTune, program: str, argv: Sequence[str] = ()) -> None:
    asyncio.run(tune.run((sys.executable, "-c", program, *argv)))


def test_no_variable_meant_for_another_verb_reaches_it(
    options: EngineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FULLBORE_CONCURRENCY", "1,4,16")
    monkeypatch.setenv("FULLBORE_CPU_ISA", "avx2")
    seen = tmp_path / "seen"
    run(
        FirstTune("auto", options),
        "import os, sys; open(sys.argv[1], 'w').write(' '.join(k for k in os.environ if 'FULLB' in k) + '.')",
        [str(seen)],
    )
    assert seen.read_text() == "FULLBORE_CPU_ISA."


@pytest.mark.parametrize("program", ["raise SystemExit(3)", "import os; os.kill(os.getpid(), 4)"])
def test_a_tuner_that_fails_or_dies_is_told_and_stops_nothing(
    options: EngineOptions, program: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run(FirstTune("auto", options), program)
    assert "the tuner ended with exit code" in caplog.text
    assert "fullbore tune MODEL" in caplog.text


def test_nothing_is_started_where_nothing_is_needed(options: EngineOptions) -> None:
    asyncio.run(FirstTune("off", options).run(("/nonexistent/program",)))


def test_a_start_that_is_cancelled_ends_the_tuner(options: EngineOptions, tmp_path: Path) -> None:
    """Ctrl-C while it measures."""
    marks = tmp_path / "marks"
    marks.touch()
    program = "import sys, time\nwhile True: open(sys.argv[1], 'a').write('x'); time.sleep(0.01)"

    async def start_and_cancel() -> None:
        task = asyncio.create_task(
            FirstTune("auto", options).run((sys.executable, "-c", program, str(marks)))
        )
        while not marks.read_text():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(start_and_cancel())
    size = marks.stat().st_size
    time.sleep(0.1)
    assert marks.stat().st_size == size
