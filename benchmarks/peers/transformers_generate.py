"""transformers' own ``generate``, behind the smallest server that can be driven like the others."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.peer import Command, Peer, Setting, Step

TORCH, TRANSFORMERS = "torch==2.13.0", "transformers==5.23.0"
VENV = "transformers"
SERVER = Path(__file__).parent / "inside" / "generate_server.py"


def converter_steps(setting: Setting) -> Iterator[Step]:
    """The environment of this peer, which converts checkpoints for llama.cpp as well."""
    needed = ("accelerate", "sentencepiece", "protobuf")
    yield from setting.make_venv(VENV, ("install", TORCH, TRANSFORMERS, *needed))


@dataclass(frozen=True)
class TransformersGenerate(Peer):
    name = "transformers"
    weights = "bf16"
    version = TRANSFORMERS

    def steps(self, setting: Setting) -> Iterator[Step]:
        yield from converter_steps(setting)
        yield setting.make_checkpoint("bf16")

    def command(self, setting: Setting, port: int) -> Command:
        argv = [str(setting.venv(VENV) / "bin" / "python"), str(SERVER), str(setting.checkpoint("bf16"))]
        argv += ["--port", str(port), "--threads", str(setting.threads), "--slots", str(setting.slots)]
        return Command([*argv, "--name", setting.model], {"HF_HUB_OFFLINE": "1"})
