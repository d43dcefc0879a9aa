"""The demo against a scripted server: what it prints, its exit codes, and that it leaves nothing running."""

import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest

from fullbore import demo
from fullbore.errors import FullboreError
from fullbore.results.table import console

pytest.importorskip("openai")

SERVER = (sys.executable, str(Path(__file__).with_name("scripted_server.py")))
STEPS = demo.Steps(SERVER, (("hello there",), ("one", "two")), (("dialog", Fraction(1, 128)),), (1, 2), 5.0)


def test_it_talks_and_measures_and_stops(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.run(STEPS, console()) == 0
    out = capsys.readouterr().out
    for words in ("hello there", "one", "two"):
        assert f"> {words}" in out
        assert f"Yousaid:{words.replace(' ', '')}" in out
    assert out.count("first token after") == 3
    assert "output" in out
    assert "dialog at scale 1/128" in out


def test_a_server_that_does_not_start_is_shown_with_its_log() -> None:
    steps = demo.Steps((*SERVER, "--die"))
    with pytest.raises(FullboreError, match=r"(?s)exit code 3.*scripted server starting"):
        demo.run(steps, console())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_too(number: signal.Signals, tmp_path: Path) -> None:
    program = (
        "import sys; from fullbore import demo; "
        f"sys.exit(demo.main(demo.Steps({SERVER!r}, (('hi',),) * 100000)))"
    )
    with (
        open(tmp_path / "out", "w+") as out,
        subprocess.Popen(
            [sys.executable, "-c", program], stdout=out, stderr=out, start_new_session=True
        ) as process,
    ):
        give_up = time.monotonic() + 60
        while "first token after" not in (tmp_path / "out").read_text() and time.monotonic() < give_up:
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children, (tmp_path / "out").read_text()
        os.kill(process.pid, number)
        code = process.wait(60)
    assert code == 128 + number, (tmp_path / "out").read_text()
    assert "Traceback" not in (tmp_path / "out").read_text()
    for child in children:
        assert not Path(f"/proc/{child}").exists()
