"""From the C++ sources to one shared object for each instruction set, at install or at first use.

Standard library only: ``setup.py`` runs this file before anything is installed.
"""

import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent / "csrc"
# No fast-math: sums keep their order, so that a row's bits do not depend on how many rows there are.
FLAGS = (
    *("-std=c++20", "-O3", "-fPIC", "-pthread", "-ffp-contract=fast"),
    *("-fvisibility=hidden", "-fno-math-errno", "-Wall", "-Wextra", "-Wno-psabi"),
)


class CompileError(Exception):
    """Why there is no object, in words for the person who installs."""


@dataclass(frozen=True)
class Isa:
    """An instruction set: what /proc/cpuinfo must list for it, and the flags that make a compiler use it."""

    name: str
    machines: tuple[str, ...]  # as platform.machine() spells them; empty for any
    cpu_flags: frozenset[str]
    compiler_flags: tuple[str, ...]


def _x86(name: str, base: Isa | None, cpu: str, compiler: str) -> Isa:
    """``base`` and what ``cpu`` and ``compiler`` add to it."""
    known = (base.cpu_flags, base.compiler_flags) if base else (frozenset[str](), ())
    return Isa(
        name,
        ("x86_64", "AMD64"),
        known[0] | set(cpu.split()),
        (*known[1], *(f"-m{flag}" for flag in compiler.split())),
    )


GENERIC = Isa("generic", (), frozenset(), ())
AVX2 = _x86("avx2", None, "avx2 fma f16c", "avx2 fma f16c")
AVX512 = _x86(
    "avx512",
    AVX2,
    "avx512f avx512bw avx512vl avx512dq",
    "avx512f avx512bw avx512vl avx512dq prefer-vector-width=512",
)
AVX512BF16 = _x86(
    "avx512bf16", AVX512, "avx512vbmi avx512_vnni avx512_bf16", "avx512vbmi avx512vnni avx512bf16"
)
AMX = _x86("amx", AVX512BF16, "amx_tile amx_bf16 amx_int8", "amx-tile amx-bf16 amx-int8")
ISAS = (GENERIC, AVX2, AVX512, AVX512BF16, AMX)  # each better than those before it


def object_name(isa: Isa) -> str:
    """The file of an instruction set, the same beside the package and in the cache."""
    return f"_native_{isa.name}.so"


def for_this_machine(isas: Iterable[Isa] = ISAS) -> tuple[Isa, ...]:
    """Those that a compiler here can make (whether this CPU can run them or not)."""
    return tuple(isa for isa in isas if not isa.machines or platform.machine() in isa.machines)


def source_files() -> list[Path]:
    """Every file that is compiled or included, in a fixed order."""
    return sorted(path for path in SOURCES.iterdir() if path.suffix in (".cpp", ".h"))


def abi() -> int:
    """A number that changes with every change of the sources: an object made of others is not used."""
    digest = hashlib.blake2b(digest_size=8)
    for path in source_files():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return int.from_bytes(digest.digest()) >> 1  # fits a signed 64-bit integer


def compiler() -> tuple[str, ...]:
    """$CXX, else g++, clang++ or c++. Raises CompileError where there is none."""
    named = shlex.split(os.environ.get("CXX", ""))
    if named:
        if shutil.which(named[0]) is None:
            raise CompileError(f"the compiler CXX={os.environ['CXX']!r} is not on PATH")
        return tuple(named)
    found = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    if found is None:
        raise CompileError("there is no C++ compiler (looked for g++, clang++ and c++; CXX names another)")
    return (found,)


@functools.cache
def compiler_version(command: tuple[str, ...]) -> str:
    """What the compiler calls itself."""
    return _output([*command, "--version"]).partition("\n")[0]


def cache_key(isa: Isa) -> str:
    """Names an object by all that goes into it: sources, flags, compiler."""
    # Nothing of a set here: its order is another in each process, and each would compile its own object.
    text = repr((abi(), isa.name, FLAGS, isa.compiler_flags, compiler(), compiler_version(compiler())))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def compile_object(isa: Isa, target: Path) -> None:
    """Write the object to ``target``, which is whole at any moment, also for other processes.

    Raises CompileError with the compiler's first complaint, or the reason why ``target`` cannot be written.
    """
    command = [*compiler(), *FLAGS, *isa.compiler_flags, f"-DFB_ABI={abi()}ll"]
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".compiling-") as folder:
            fresh = Path(folder) / target.name
            inputs = [path for path in source_files() if path.suffix == ".cpp"]
            parts = [str(Path(folder) / f"{path.stem}.o") for path in inputs]
            with ThreadPoolExecutor(os.cpu_count()) as jobs:
                for job in [
                    jobs.submit(_output, [*command, "-c", str(path), "-o", part])
                    for path, part in zip(inputs, parts, strict=True)
                ]:
                    job.result()
            _output([*command, "-shared", *parts, "-o", str(fresh)])
            os.replace(fresh, target)
    except OSError as error:
        raise CompileError(f"{target.parent} cannot be written ({error.strerror})") from error


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, errors="replace").stdout
    except OSError as error:
        raise CompileError(f"{command[0]} cannot be run ({error.strerror})") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        complaint = next((line for line in lines if "error" in line), lines[0])
        raise CompileError(f"{command[0]} refuses: {complaint}") from error
