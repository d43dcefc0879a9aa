"""Two real servers under the harness: ours, and the one around transformers' ``generate``."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_peers_harness import failures, measured, run

from benchmarks.peers.catalogue import choose
from benchmarks.peers.fullbore_server import Fullbore
from benchmarks.peers.peer import Command, Setting, Step
from benchmarks.peers.transformers_generate import SERVER, TransformersGenerate

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Here(TransformersGenerate):
    """With this interpreter, which has transformers already."""

    def steps(self, setting: Setting) -> Iterator[Step]:
        yield setting.make_checkpoint("bf16")

    def command(self, setting: Setting, port: int) -> Command:
        given = super().command(setting, port)
        assert given.argv[1] == str(SERVER)
        return Command([sys.executable, *given.argv[1:]], given.env)


def test_both_carry_the_load_as_asked(tmp_path: Path) -> None:
    ours = choose(["fullbore fp8_block"])[0]
    assert isinstance(ours, Fullbore)
    assert run(tmp_path, ours, Here(), more=("--rounds", "2")) == 0, failures(tmp_path)
    assert sorted(measured(tmp_path)) == sorted(
        [(name, n) for name in ("fullbore fp8_block", "transformers") for n in (1, 3)] * 2
    )
