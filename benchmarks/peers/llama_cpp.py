"""llama.cpp's server, built for this CPU from the source that the llama-cpp-python package carries."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.peer import MINUTES, Command, Peer, Setting, Step
from benchmarks.peers.transformers_generate import VENV as CONVERTER
from benchmarks.peers.transformers_generate import converter_steps

RELEASE = "0.3.36"
CLASSES = {"BF16": "bf16", "Q8_0": "8-bit", "Q4_0": "4-bit", "Q4_K_M": "4-bit"}
CONVERT = Path(__file__).parent / "inside" / "convert_gguf.py"
UNPACK = (
    "import sys, tarfile\n"
    "with tarfile.open(sys.argv[1]) as archive:\n"
    "    archive.extractall(sys.argv[2], filter='data')\n"
)


@dataclass(frozen=True)
class LlamaCpp(Peer):
    """``quant``: how its GGUF file stores matrices."""

    quant: str
    version = f"llama-cpp-python {RELEASE}"

    @property
    def name(self) -> str:
        return f"llama.cpp {self.quant}"

    @property
    def weights(self) -> str:
        return CLASSES[self.quant]

    def steps(self, setting: Setting) -> Iterator[Step]:
        yield from _build(setting)
        yield from converter_steps(setting)
        yield setting.make_checkpoint("bf16")
        whole = _gguf(setting, "BF16")
        python = str(setting.venv(CONVERTER) / "bin" / "python")
        argv = [python, str(CONVERT), str(_source(setting)), str(setting.checkpoint("bf16"))]
        argv += ["--outtype", "bf16", "--outfile", str(whole)]
        yield Step(f"gguf {setting.model} BF16", argv, (whole,), 30 * MINUTES)
        if self.quant != "BF16":
            made = _gguf(setting, self.quant)
            argv = [str(_build_folder(setting) / "bin" / "llama-quantize"), str(whole), str(made), self.quant]
            yield Step(f"gguf {setting.model} {self.quant}", argv, (made,), 30 * MINUTES)

    def command(self, setting: Setting, port: int) -> Command:
        argv = [str(_build_folder(setting) / "bin" / "llama-server"), "-m", str(_gguf(setting, self.quant))]
        argv += ["--host", "127.0.0.1", "--port", str(port), "--alias", setting.model]
        argv += ["-t", str(setting.threads), "-tb", str(setting.threads)]
        argv += ["-np", str(setting.slots), "-c", str(setting.slots * setting.context)]
        # Every prompt is new, so what it would keep of earlier ones is only work.
        argv += ["--no-ui", "--cache-ram", "0", "--no-cache-prompt"]
        return Command(argv)


def _home(setting: Setting) -> Path:
    return setting.home / f"llama.cpp-{RELEASE}"


def _source(setting: Setting) -> Path:
    return _home(setting) / f"llama_cpp_python-{RELEASE}" / "vendor" / "llama.cpp"


def _build_folder(setting: Setting) -> Path:
    return _home(setting) / "build"


def _gguf(setting: Setting, quant: str) -> Path:
    return setting.home / "checkpoints" / f"{setting.model}-{quant}.gguf"


def _build(setting: Setting) -> Iterator[Step]:
    """Release build with everything that this machine's CPU offers; cmake and ninja come from PyPI too."""
    tools = "llama.cpp-tools"
    home, bin_ = _home(setting), setting.venv(tools) / "bin"
    archive = home / f"llama_cpp_python-{RELEASE}.tar.gz"
    yield from setting.make_venv(tools, ("install", "cmake", "ninja"))
    fetch = ("download", f"llama-cpp-python=={RELEASE}", "--no-binary", ":all:", "--no-deps", "-d", str(home))
    yield Step("llama.cpp fetch", [str(bin_ / "python"), "-m", "pip", *fetch], (archive,), 15 * MINUTES)
    yield Step(
        "llama.cpp unpack",
        (sys.executable, "-c", UNPACK, str(archive), str(home)),
        (_source(setting) / "CMakeLists.txt",),
        5 * MINUTES,
    )
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_MAKE_PROGRAM": str(bin_ / "ninja"),
        "GGML_NATIVE": "ON",
        "BUILD_SHARED_LIBS": "OFF",
        "LLAMA_BUILD_TESTS": "OFF",
        "LLAMA_BUILD_EXAMPLES": "OFF",
        "LLAMA_OPENSSL": "OFF",
        "LLAMA_USE_PREBUILT_UI": "OFF",  # else the build fetches one
    }
    cmake, build = str(bin_ / "cmake"), str(_build_folder(setting))
    defines = tuple(f"-D{name}={value}" for name, value in options.items())
    made = (Path(build) / "build.ninja",)
    argv = [cmake, "-G", "Ninja", "-S", str(_source(setting)), "-B", build, *defines]
    yield Step("llama.cpp configure", argv, made, 10 * MINUTES)
    programs = tuple(Path(build) / "bin" / name for name in ("llama-server", "llama-quantize"))
    targets = ("--target", "llama-server", "llama-quantize")
    argv = [cmake, "--build", build, "--parallel", str(setting.threads), *targets]
    yield Step("llama.cpp compile", argv, programs, 60 * MINUTES)
