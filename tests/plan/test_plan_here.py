"""``fullbore plan`` for this machine, on a table whose every time is known."""

import json
import shlex
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_times import HOST_US, OPTIONS, THEN, records, table

from fullbore import cli, flags
from fullbore.engine.options import EngineOptions
from fullbore.errors import FullboreError
from fullbore.model.locate import locate
from fullbore.ops.times import Times
from fullbore.plan import command_here
from fullbore.plan.demand import Demand
from fullbore.plan.http import Http, http
from fullbore.plan.space_here import Machine, SpaceHere
from fullbore.plan.trial_here import TrialHere
from fullbore.scenario.scenario import Limits
from fullbore.server import command as server

HTTP = Http(2000.0, 50.0)
FREE_BYTES = 1 << 30
SHORT = "plan --scale 1/16 --tpot 15ms --ttft 1s --chunk 64,128 --active 0.1 --requests-per-hour 12"


def machine(times: Times, options: EngineOptions = OPTIONS) -> Machine:
    return Machine(options, THEN, "2026-11-25", HTTP, times, HOST_US, FREE_BYTES)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is complete, and the machine idle."""

    def made(options: EngineOptions) -> Machine:
        return machine(table(2.0), msgspec.structs.replace(options, dtype="float32", concurrency=4))

    monkeypatch.setattr(command_here, "_machine", made)
    monkeypatch.setattr(command_here, "busy_load", lambda threads: 0.0)


def told(arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert cli.main([*arguments.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def refused(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(arguments.split()) != 0
    return capsys.readouterr().err


@pytest.mark.usefixtures("known")
def test_without_a_server_it_plans_for_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(SHORT, capsys)
    assert found == told(f"{SHORT} --server here --model demo", capsys)
    assert (found["server"], found["engine"]) == ("this machine", "fullbore")
    assert [part["scenario"]["name"] for part in found["scenarios"]] == ["dialog", "code"]
    for part in found["scenarios"]:
        best, limits = part["best_concurrency"], part["scenario"]["limits"]
        assert 0 < best["sure"] <= best["concurrency"] <= best["hoped"]
        assert part["tpot_ms"]["mean"] <= limits["tpot_ms"]
        assert part["ttft_ms"]["mean"] <= limits["ttft_ms"]
        assert part["tpot_parts_ms"]["host"] > 0.9
        assert sum(part["tpot_parts_ms"].values()) == pytest.approx(part["tpot_ms"]["mean"], rel=0.05)
    assert "half the host's time" in [change["name"] for change in found["scenarios"][0]["changes"]]


@pytest.mark.usefixtures("known")
def test_a_busy_machine_is_said_to_be_busy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for load, said in ((0.0, False), (7.25, True)):
        monkeypatch.setattr(command_here, "busy_load", lambda threads, load=load: load)
        notes = told(f"{SHORT} --scenario dialog", capsys)["notes"]
        assert any("busy (load 7.2)" in note for note in notes) == said


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(("most", "said"), [(0.0, True), (1.0, False)])
def test_steps_that_are_mostly_host_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], most: float, said: bool
) -> None:
    monkeypatch.setattr(command_here, "_MUCH_HOST", most)
    notes = told(f"{SHORT} --scenario dialog", capsys)["notes"]
    assert any("of a step: how such short steps share the cores" in note for note in notes) == said


@pytest.mark.usefixtures("known")
def test_the_command_serves_what_was_planned(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(f"{SHORT} --scenario code", capsys)
    words = shlex.split(found["commands"][0]["command"])
    assert words[:3] == ["fullbore", "serve", "demo"]
    parser = flags.Parser(prog="fullbore serve")
    server.configure(parser)
    args = flags.parse(parser, words[2:], {})
    limits = [part["concurrency"] for part in found["scenarios"]]
    assert args.max_num_seqs == min(max(limits), found["chosen"]["most_running"])
    assert args.max_num_batched_tokens == found["chosen"]["chunk_tokens"]
    longest = (512 + 4096) // 16
    token_bytes = 4 * 160 * 4  # layers, latent and rope, float32
    assert args.kv_gb * 2**30 >= args.max_num_seqs * longest * token_bytes


@pytest.mark.usefixtures("known")
def test_the_page_says_what_was_never_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*SHORT.split(), "--scenario", "dialog"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "this machine with Fullbore" in page
    assert "never timed here, so nothing is said of --kv-cache-dtype fp8, --weights bf16" in page
    assert "fullbore serve demo --max-num-seqs" in page


def test_what_was_timed_is_told_as_a_change() -> None:
    times = Times([*records(2.0), *records(1.0, kv_bits=8)])
    demand = Demand("short", 20, 20, 1.0, Limits(1e3, 1e3))
    (trial,) = machine(times).trials(SpaceHere(chunks=(128,)), [demand])
    assert isinstance(trial, TrialHere)
    changes = dict(trial.changes(demand, 4))
    assert set(changes) == {"--kv-cache-dtype fp8", "half the host's time"}
    assert changes["--kv-cache-dtype fp8"].held.cache_tokens > trial.held.cache_tokens
    for other in changes.values():
        assert other.at(demand, 4).tpot_ms < trial.at(demand, 4).tpot_ms
    assert "fp8" not in " ".join(trial.profile.notes)


@cache
def complete() -> Machine:
    return machine(table(2.0))


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 200), st.integers(8, 60), st.integers(1, 24), st.sampled_from([64, 256]))
def test_counts_and_the_scheduler_agree(inputs: int, outputs: int, concurrency: int, chunk: int) -> None:
    demand = Demand("any", inputs, outputs, 1.0, Limits(1e9, 1e9))
    (trial,) = complete().trials(SpaceHere(chunks=(chunk,)), [demand])
    assert isinstance(trial, TrialHere)
    counted, seen = trial.at(demand, concurrency), trial.by_scheduler(demand, concurrency)
    assert seen is not None
    assert trial.at(demand, concurrency) == seen, "it is told from now on"
    assert seen.output_tok_s == pytest.approx(counted.output_tok_s, rel=0.15)
    assert seen.tpot_ms == pytest.approx(counted.tpot_ms, rel=0.25)


def test_missing_times_are_measured_unless_that_is_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned: list[str] = []

    def made(options: EngineOptions) -> Machine:
        float32 = msgspec.structs.replace(options, dtype="float32", concurrency=4)
        return machine(table(2.0) if tuned else Times(), float32)

    def tune(mode: str, options: EngineOptions, space: SpaceHere) -> None:
        tuned.append(mode)

    monkeypatch.setattr(command_here, "_machine", made)
    monkeypatch.setattr(command_here, "_tune", tune)
    said = refused(f"{SHORT} --tune off", capsys)
    assert "never timed on this machine" in said
    assert "moe_ffn" in said
    assert "leave out --tune off" in said
    assert not tuned
    assert told(f"{SHORT} --scenario dialog", capsys)["server"] == "this machine"
    assert tuned == ["quick"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--layout tp8", "--layout is for other servers"),
        ("--mtp 1", "--mtp is for other servers"),
        ("--config deepseek-v3", "the model is --model"),
        ("--engine sglang", "planned with fullbore"),
        ("--command vllm", "expected fullbore"),
        ("--kv int3", "--kv int3: expected one of"),
        ("--weights fp4", "--weights fp4 is not known"),
        ("--scale 0", "no scale above 0"),
        ("--server 8xMI300X --model demo", "--model is for this machine"),
        ("--model ./nowhere", "there is no folder"),
    ],
)
@pytest.mark.usefixtures("known")
def test_what_means_nothing_here_is_refused(
    arguments: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in " ".join(refused(f"plan {arguments}", capsys).split())


@pytest.mark.usefixtures("known")
def test_lengths_beyond_the_model_are_refused_with_a_scale_that_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in locate("demo").iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    config = json.loads((locate("demo") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 512}))
    said = " ".join(refused(f"plan --model {tmp_path}", capsys).split())
    assert "scenario dialog: a request of 1152 tokens; the model has 512 positions" in said
    assert "--scale 1/3" in said


@pytest.mark.usefixtures("known")
def test_limits_below_the_floor_say_what_is_possible(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused("plan --scale 1/16 --tpot 0.1ms --scenario dialog", capsys)
    assert "cannot be kept with even one request in flight" in " ".join(said.split())


def program(text: str) -> Sequence[str]:
    return ("/bin/sh", "-c", text)


def test_the_http_process_is_asked_for_its_time() -> None:
    assert http("demo", program('echo \'{"request_us": 3.5, "token_us": 2}\'')) == Http(3.5, 2)
    with pytest.raises(FullboreError, match="no such tokenizer"):
        http("demo", program("echo no such tokenizer >&2; exit 1"))


def test_it_takes_time_from_operators_only_where_they_have_every_core() -> None:
    assert HTTP.beside(HOST_US, threads=2, cores=2).token_us == 25.0
    assert HTTP.beside(HOST_US, threads=2, cores=3).token_us == 0.0
