"""The benchmark of the load generator measures what it says: every chunk's way, and nothing else."""

import re

import pytest

from benchmarks import client


@pytest.mark.parametrize("processes", [1, 2])
def test_every_chunk_is_accounted_for(processes: int, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--streams", "6", "--rate", "50", "--chunks", "12", "--processes", str(processes)]
    assert client.main(small) == 0
    for kind, line in zip(("spread", "lockstep"), capsys.readouterr().out.splitlines(), strict=True):
        assert line.startswith(f"6 streams, {kind}, {processes} process(es): ")
        lags = re.search(r"lag ms p50 ([\d.]+), p99 ([\d.]+), most ([\d.]+)", line)
        assert lags is not None
        p50, p99, most = map(float, lags.groups())
        assert 0 <= p50 <= p99 <= most


def test_nothing_but_settling_is_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert client.main(["--streams", "2", "--rate", "50", "--chunks", "3"]) == 1
    assert "no stream brought more than 5 chunks" in capsys.readouterr().out
