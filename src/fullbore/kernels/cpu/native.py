"""The native code of this process: the best object that this CPU can run, and its pool of threads.

An object lies beside this file when the package was installed with a compiler at hand; else it is compiled at
first use into ``$XDG_CACHE_HOME/fullbore/native`` (``~/.cache`` unless set). ``FULLBORE_CPU_ISA`` names an
instruction set instead of the best one; ``FULLBORE_PIN`` see ``placement.py``.
"""

import ctypes
import functools
import logging
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from fullbore.errors import UsageError, did_you_mean
from fullbore.hardware.cpu import cpu_flags
from fullbore.hardware.topology import allowed_cpus
from fullbore.kernels.cpu.build import (
    ISAS,
    CompileError,
    Isa,
    abi,
    cache_key,
    compile_object,
    for_this_machine,
    object_name,
)
from fullbore.kernels.cpu.placement import places

VARIABLE = "FULLBORE_CPU_ISA"
# Of one decode of bench-1b5 in fp8_block, by that with avx512bf16 in turns with it: docs/benchmarks.md.
DECODE_TIMES = {"avx512bf16": 1.0, "avx512": 2.0, "avx2": 2.5}
INSTALLED = Path(__file__).parent
_log = logging.getLogger(__name__)


class NativeUnavailable(ImportError):
    """There is no native code for this machine; the message says why, for each instruction set tried."""


@dataclass(frozen=True)
class Native:
    """One loaded object. ``pool``: its threads, the first argument of every kernel; ``threads``: how many.

    ``passed_over``: better instruction sets that this CPU has, each with the reason why it is not used.
    """

    isa: str
    lib: ctypes.CDLL
    pool: ctypes.c_void_p
    threads: int
    passed_over: tuple[str, ...] = ()


def native() -> Native:
    """The native code of this process, loaded at the first call with as many threads as torch has then.

    Raises NativeUnavailable with the reasons, and UsageError for a ``FULLBORE_CPU_ISA`` that cannot be.
    """
    outcome = _outcome()
    if isinstance(outcome, NativeUnavailable):
        raise outcome
    return outcome


@functools.cache
def _outcome() -> Native | NativeUnavailable:
    """Found out once: a compiler that failed would fail for every kernel again."""
    try:
        return load(chosen_isas(os.environ, cpu_flags()), torch.get_num_threads())
    except NativeUnavailable as error:
        return error


def runnable(flags: frozenset[str]) -> tuple[Isa, ...]:
    """The instruction sets of a CPU with these flags, the best first."""
    return tuple(isa for isa in reversed(for_this_machine()) if isa.cpu_flags <= flags)


def chosen_isas(environ: Mapping[str, str], flags: frozenset[str]) -> tuple[Isa, ...]:
    """What to try, in this order. UsageError: ``FULLBORE_CPU_ISA`` names none, or one this CPU cannot run."""
    named = environ.get(VARIABLE)
    if not named:
        return runnable(flags)
    known = {isa.name: isa for isa in ISAS}
    if named not in known:
        raise UsageError(
            f"{VARIABLE}={named!r} is no instruction set{did_you_mean(named, known)}; expected one of "
            f"{', '.join(known)}"
        )
    isa = known[named]
    if isa not in runnable(flags):
        missing = ", ".join(sorted(isa.cpu_flags - flags)) or f"a {' or '.join(isa.machines)} processor"
        able = ", ".join(each.name for each in runnable(flags))
        raise UsageError(f"{VARIABLE}={named} needs {missing}, which this CPU lacks; it can run {able}")
    return (isa,)


def load(isas: tuple[Isa, ...], threads: int, folder: Path = INSTALLED) -> Native:
    """The first of ``isas`` that has, or can be given, an object. Raises NativeUnavailable where none has."""
    passed: dict[str, str] = {}
    for isa in isas:
        try:
            lib = _library(isa, folder)
            _enable(lib)
        except (CompileError, OSError) as error:
            passed[isa.name] = str(error)
            continue
        for better, reason in passed.items():
            _log.warning(
                "slower native kernels are used, %s instead of %s (%s): %s",
                isa.name, better, _how_much_slower(isa.name, better), reason,
            )  # fmt: skip
        return Native(isa.name, lib, _new_pool(lib, threads), threads, _lines(passed))
    raise NativeUnavailable("no native kernels (" + "; ".join(_lines(passed)) + ")")


def _lines(passed: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}: {reason}" for name, reason in passed.items())


def _how_much_slower(used: str, better: str) -> str:
    if used not in DECODE_TIMES or better not in DECODE_TIMES:
        return "how much slower was not measured"
    times = DECODE_TIMES[used] / DECODE_TIMES[better]
    return f"a decode took {times:.1f} times as long on the machine that docs/benchmarks.md names"


def _library(isa: Isa, folder: Path) -> ctypes.CDLL:
    """From beside the package, from the cache, or compiled now; CompileError with every reason against."""
    reasons = []
    installed = folder / object_name(isa)
    if installed.exists():
        try:
            return _open(installed)
        except OSError as error:
            reasons.append(str(error))
    try:
        cached = cache_folder(os.environ) / cache_key(isa) / object_name(isa)
        if cached.exists():
            try:
                return _open(cached)
            except OSError as error:
                _log.warning("%s; it is compiled again", error)
        compile_object(isa, cached)
    except CompileError as error:
        raise CompileError("; ".join([*reasons, str(error)])) from error
    return _open(cached)


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where objects are kept that were compiled at first use."""
    base = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fullbore" / "native"


def _open(path: Path) -> ctypes.CDLL:
    """Raises OSError for a damaged object and for one that was made of other sources."""
    _refuse_truncated(path)
    lib = ctypes.CDLL(str(path))
    lib.fb_abi.restype = ctypes.c_int64
    made_of = lib.fb_abi()
    if made_of != abi():
        raise OSError(f"{path} was made of other sources (abi {made_of:#x}, expected {abi():#x})")
    return lib


def _enable(lib: ctypes.CDLL) -> None:
    """Raises OSError where the system keeps this process from registers that the object needs."""
    lib.fb_enable.restype = ctypes.c_int64
    if denied := lib.fb_enable():
        raise OSError(
            f"the system denies this process the registers ({os.strerror(denied)}); "
            "Linux 5.16 and newer grant them"
        )


def _refuse_truncated(path: Path) -> None:
    """The loader maps what the headers promise and dies of what is missing; ELF keeps a table at its end."""
    with path.open("rb") as file:
        header = file.read(64)
    if len(header) < 64 or header[:4] != b"\x7fELF":
        raise OSError(f"{path} is damaged: no ELF header")
    (sections_at,) = struct.unpack_from("<Q", header, 40)
    entry_size, count = struct.unpack_from("<HH", header, 58)
    expected, size = sections_at + entry_size * count, path.stat().st_size
    if size < expected:
        raise OSError(f"{path} is damaged: {size} bytes, expected {expected}")


def _new_pool(lib: ctypes.CDLL, threads: int) -> ctypes.c_void_p:
    lib.fb_pool_new.restype = ctypes.c_void_p
    lib.fb_pool_new.argtypes = (ctypes.c_int, ctypes.c_void_p)
    cpus = places(os.environ, threads, allowed_cpus())
    return ctypes.c_void_p(lib.fb_pool_new(threads, (ctypes.c_int * len(cpus))(*cpus) if cpus else None))
