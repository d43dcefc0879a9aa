"""The step's benchmark: every operator of the network is timed, and what is no step is refused."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks import step
from benchmarks.step import Watch, floors, main, measure, shape_of, steps
from fullbore.cli import main as fullbore
from fullbore.engine.runner import Runner
from fullbore.errors import UsageError
from fullbore.hardware.ceiling import Ceiling, Probes
from fullbore.model.load import load_model

CEILING = Ceiling(10e9, {"float32": 1e12, "bfloat16": 2e12})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("step") / "tiny"
    assert fullbore(["make-checkpoint", str(folder), "--config", "tiny"]) == 0
    return folder


def test_every_operator_of_a_step_is_timed_and_has_a_floor(checkpoint: Path) -> None:
    watch = Watch()
    model = load_model(checkpoint, selector=watch)
    shape = shape_of("2+3", 5)
    runner = Runner(model, 9, step.PAGE, ())
    work = steps(runner, shape, model.config.vocab_size)
    assert Counter(row.count for row in work[0].rows) == {1: 2, 3: 1}
    found = measure(runner, work, watch, 0.0)
    used = {job.operator for job in watch.work.jobs} - {"rms_norm"}  # of layers that only draft
    assert set(found.operators) == used
    assert 0 < sum(found.operators.values()) < found.watched
    floor = floors(watch.work, shape, CEILING)
    assert all(floor[name] > 0 for name in used)


def test_the_table_names_operators_and_host(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        step, "probes", lambda: Probes(lambda: CEILING.read, lambda kind: CEILING.flops.get(kind))
    )
    assert (
        main([str(checkpoint), "--steps", "1,0+2", "--context", "3", "--seconds", "0", "--threads", "1"]) == 0
    )
    told = capsys.readouterr().out
    assert told.count("moe_ffn") == told.count("host") == 2
    assert "1 decodes at context 3" in told


@pytest.mark.parametrize("word", ["", "x", "1+y", "0", "0+0", "-1"])
def test_what_is_no_step_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="no step"):
        shape_of(word, 10)
