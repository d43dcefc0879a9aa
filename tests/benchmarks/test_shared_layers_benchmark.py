"""The benchmark of shared layers runs, on a model of no size."""

import argparse

import pytest

from benchmarks import shared_layers


def test_it_times_every_number_of_layers(capsys: pytest.CaptureFixture[str]) -> None:
    shared_layers.main(argparse.Namespace(config="tiny", layers=[0, 2], rows=2, steps=3))
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4
    assert [line.split()[0] for line in printed] == ["all", "2", "all", "2"]
