"""The harness that measures other engines: it resumes, survives what fails, and leaves nothing running."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from fake_peers import FakePeer, python_step
from rich.console import Console

from benchmarks.peers.__main__ import main
from benchmarks.peers.peer import Command, Peer, Step
from benchmarks.peers.processes import ServerError, end_group, free_port, running
from benchmarks.peers.results import read
from benchmarks.peers.steps import StepError, Workshop
from benchmarks.peers.table import report

CODE_THAT_WAITS = "import time; time.sleep(600)"


def run(home: Path, *peers: Peer, more: tuple[str, ...] = (), concurrency: str = "1,3") -> int:
    names = ",".join(peer.name for peer in peers)
    flags = ["--home", str(home), "--peers", names, "--scenario", "dialog", "--output-scale", "1/128"]
    flags += ["--config", "tiny", "--concurrency", concurrency, "--requests-per-slot", "1", *more]
    return main(flags, peers)


def measured(home: Path) -> list[tuple[str, int]]:
    results = read(home / "results" / "tiny.json")
    return [(each.peer, each.point.concurrency) for each in results.measurements]


def failures(home: Path) -> list[str]:
    return [
        f"{each.peer}: {each.doing}: {each.error}" for each in read(home / "results" / "tiny.json").failures
    ]


def starts(home: Path, peer: str) -> int:
    return (home / "logs" / f"serve-{peer}.log").read_text().count("fake server starting")


def gone(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    return True


def wait_for(what: Callable[[], bool]) -> None:
    """Until it is so; the test's own time limit is the only one."""
    while not what():
        time.sleep(0.05)


def test_every_peer_is_measured_at_every_load_with_one_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, FakePeer("one"), FakePeer("two", weights="8-bit")) == 0
    assert measured(tmp_path) == [("one", 1), ("one", 3), ("two", 1), ("two", 3)]
    assert (starts(tmp_path, "one"), starts(tmp_path, "two")) == (1, 1)
    for each in read(tmp_path / "results" / "tiny.json").measurements:
        assert each.figures.requests_ok == each.point.requests == 4
        assert each.figures.output_tokens == 4 * each.point.output_tokens == 4 * 8
        assert each.figures.input_tokens == 4 * 128
        assert each.peak_rss_mib > 1
        assert each.load.own > 0
    shown = capsys.readouterr().out
    assert "one" in shown
    assert "two" in shown
    assert "8-bit" in shown


def test_a_later_run_measures_only_what_is_missing(tmp_path: Path) -> None:
    peer = FakePeer("one")
    assert run(tmp_path, peer, concurrency="1") == 0
    assert run(tmp_path, peer, concurrency="1") == 0
    assert starts(tmp_path, "one") == 1
    assert run(tmp_path, peer, concurrency="1,2") == 0
    assert measured(tmp_path) == [("one", 1), ("one", 2)]
    assert run(tmp_path, peer, concurrency="1", more=("--rounds", "2")) == 0
    assert measured(tmp_path) == [("one", 1), ("one", 2), ("one", 1)]


def test_again_replaces_the_chosen_loads_only(tmp_path: Path) -> None:
    run(tmp_path, FakePeer("one"), FakePeer("two"))
    first = {
        (m.peer, m.point.concurrency): m.measured for m in read(tmp_path / "results/tiny.json").measurements
    }
    time.sleep(1.1)  # times of measurements are whole seconds
    assert run(tmp_path, FakePeer("one"), concurrency="3", more=("--again",)) == 0
    second = {
        (m.peer, m.point.concurrency): m.measured for m in read(tmp_path / "results/tiny.json").measurements
    }
    assert {key for key in first if first[key] != second[key]} == {("one", 3)}


def test_rounds_visit_every_peer_before_the_first_again(tmp_path: Path) -> None:
    assert run(tmp_path, FakePeer("one"), FakePeer("two"), concurrency="1", more=("--rounds", "2")) == 0
    assert [peer for peer, _ in measured(tmp_path)] == ["one", "two", "one", "two"]


def test_a_peer_that_does_not_install_stops_no_other(tmp_path: Path) -> None:
    broken = FakePeer("broken", code="print('no wheel for this machine'); raise SystemExit(3)")
    assert run(tmp_path, broken, FakePeer("sound"), concurrency="1") == 1
    assert measured(tmp_path) == [("sound", 1)]
    (failure,) = failures(tmp_path)
    assert failure.startswith("broken: install: broken install ended with 3")
    assert "no wheel for this machine" in failure
    assert run(tmp_path, FakePeer("broken"), concurrency="1") == 0
    assert failures(tmp_path) == []


def test_a_server_that_dies_at_start_tells_its_last_words(tmp_path: Path) -> None:
    dying = FakePeer("dying", arguments=("--no-such-flag",))
    assert run(tmp_path, dying, FakePeer("sound"), concurrency="1") == 1
    (failure,) = failures(tmp_path)
    assert "the server ended with 2 before it was ready" in failure
    assert "unrecognized arguments: --no-such-flag" in failure
    assert measured(tmp_path) == [("sound", 1)]


def test_a_server_that_never_gets_ready_is_given_up_and_ended(tmp_path: Path) -> None:
    deaf = FakePeer("deaf", ready="/never", arguments=("--stubborn", "--pids", str(tmp_path / "pids")))
    assert run(tmp_path, deaf, concurrency="1", more=("--start-timeout", "2")) == 1
    assert "did not answer 200 within 2 s" in failures(tmp_path)[0]
    assert all(gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())


def test_a_killed_server_costs_one_load_and_is_started_again(tmp_path: Path) -> None:
    fragile = FakePeer("fragile", arguments=("--killed-once", str(tmp_path / "killed")))
    assert run(tmp_path, fragile) == 1
    (failure,) = failures(tmp_path)
    assert "measure dialog 128/8 x1: the server ended with -9" in failure
    assert measured(tmp_path) == [("fragile", 3)]
    assert run(tmp_path, fragile) == 0
    assert measured(tmp_path) == [("fragile", 3), ("fragile", 1)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_it_has_and_leaves_no_server(tmp_path: Path, number: int) -> None:
    slow = FakePeer("slow", arguments=("--gap", "0.05", "--pids", str(tmp_path / "pids")))
    results = tmp_path / "results" / "tiny.json"
    here = Path(__file__).parent
    code = (
        "from pathlib import Path; from fake_peers import FakePeer; from test_peers_harness import run\n"
        f"raise SystemExit(run(Path({str(tmp_path)!r}), FakePeer('slow', arguments={slow.arguments!r})))"
    )
    paths = os.pathsep.join([str(here), str(here.parents[1]), *sys.path])
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths})
    wait_for(results.exists)
    process.send_signal(number)
    assert process.wait(60) == 130
    assert measured(tmp_path) == [("slow", 1)]
    assert gone(int((tmp_path / "pids").read_text()))
    assert run(tmp_path, slow) == 0
    assert measured(tmp_path) == [("slow", 1), ("slow", 3)]


def test_answers_of_another_length_are_no_measurement(tmp_path: Path) -> None:
    assert run(tmp_path, FakePeer("brief", arguments=("--short-by", "3")), concurrency="1") == 1
    assert measured(tmp_path) == []
    assert "answers of 20 tokens where 32 were asked" in failures(tmp_path)[0]


def test_an_unknown_peer_is_told_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--home", str(tmp_path), "--peers", "llama.ccp"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_results_of_another_machine_are_not_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, FakePeer("one"), concurrency="1")
    path = tmp_path / "results" / "tiny.json"
    path.write_text(path.read_text().replace('"cpu": "', '"cpu": "Another '))
    assert run(tmp_path, FakePeer("one"), concurrency="1") == 2
    assert "name another file" in " ".join(capsys.readouterr().err.split())


def test_the_table_shows_ours_against_the_best_of_its_class_and_of_all(tmp_path: Path) -> None:
    ours = FakePeer("fullbore bf16", arguments=("--gap", "0.001"))
    slow = FakePeer("slow", arguments=("--gap", "0.05"))
    quick = FakePeer("quick", arguments=("--gap", "0"), weights="4-bit")
    assert run(tmp_path, ours, slow, quick, concurrency="1") == 0
    results = read(tmp_path / "results" / "tiny.json")
    speed = {each.peer: each.figures.output_tok_s or 0.0 for each in results.measurements}
    out = io.StringIO()
    Console(file=out, width=150).print(report(results))
    mine = speed["fullbore bf16"]
    assert f"{mine / speed['slow']:.2f} / {mine / max(speed['slow'], speed['quick']):.2f}" in out.getvalue()


class TestSteps:
    def test_a_step_is_done_once(self, tmp_path: Path) -> None:
        said: list[str] = []
        made = tmp_path / "made"
        count = f"open({str(made)!r}, 'a').write('x')"
        workshop = Workshop(tmp_path, said.append)
        workshop.do([python_step("count", count, made)])
        Workshop(tmp_path, said.append).do([python_step("count", count, made)])
        assert (made.read_text(), said) == ("x", ["count ..."])

    def test_another_command_or_a_lost_product_is_done_again(self, tmp_path: Path) -> None:
        made = tmp_path / "made"
        count = f"open({str(made)!r}, 'a').write('x')"
        workshop = Workshop(tmp_path, lambda _: None)
        workshop.do([python_step("count", count, made)])
        workshop.do([python_step("count", f"{count}  # 2", made)])
        assert made.read_text() == "xx"
        made.unlink()
        workshop.do([python_step("count", f"{count}  # 2", made)])
        assert made.read_text() == "x"

    def test_a_failed_step_is_no_step_done(self, tmp_path: Path) -> None:
        workshop = Workshop(tmp_path, lambda _: None)
        for _ in range(2):
            with pytest.raises(StepError, match="ended with 1"):
                workshop.do([python_step("fails", "raise SystemExit(1)")])

    def test_a_step_must_leave_what_it_promises(self, tmp_path: Path) -> None:
        with pytest.raises(StepError, match=r"left no .*nowhere"):
            Workshop(tmp_path, lambda _: None).do([python_step("idle", "pass", tmp_path / "nowhere")])

    def test_a_step_that_takes_too_long_is_ended_with_its_children(self, tmp_path: Path) -> None:
        pid = tmp_path / "pid"
        code = (
            "import pathlib, subprocess, sys\n"
            f"child = subprocess.Popen([sys.executable, '-c', {CODE_THAT_WAITS!r}])\n"
            f"pathlib.Path({str(pid)!r}).write_text(str(child.pid))\n"
            "child.wait()\n"
        )
        with pytest.raises(StepError, match="was ended after 2 s"):
            Workshop(tmp_path, lambda _: None).do([python_step("slow", code, timeout_s=2)])
        assert gone(int(pid.read_text()))

    def test_a_program_that_is_not_there_is_named(self, tmp_path: Path) -> None:

        with pytest.raises(StepError, match="/no/such/program cannot be run"):
            Workshop(tmp_path, lambda _: None).do([Step("absent", ["/no/such/program"], (), 5.0)])


class TestProcesses:
    def test_a_server_is_ended_when_the_block_is_left_by_an_error(self, tmp_path: Path) -> None:
        command = Command([sys.executable, "-c", CODE_THAT_WAITS])
        with pytest.raises(RuntimeError), running(command, free_port(), tmp_path / "log") as server:
            raise RuntimeError
        assert server.ended

    def test_a_program_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with (
            pytest.raises(ServerError, match="/no/such/program cannot be run"),
            running(Command(["/no/such/program"]), 1, tmp_path / "log"),
        ):
            raise AssertionError("it cannot run")

    def test_ending_twice_is_harmless(self, tmp_path: Path) -> None:
        command = Command([sys.executable, "-c", CODE_THAT_WAITS], {"MARK": "1"})
        with running(command, free_port(), tmp_path / "log") as server:
            end_group(server.process)
            assert server.process.pid != os.getpid()
            assert server.ended
