"""Kernels as tests make them: those in C++ once for each instruction set that this machine can run."""

import functools
from collections.abc import Iterator

from fullbore.hardware.cpu import cpu_flags
from fullbore.kernels.cpu.build import CompileError, Isa, compiler
from fullbore.kernels.cpu.kernel import CpuKernel
from fullbore.kernels.cpu.native import Native, NativeUnavailable, load, runnable
from fullbore.kernels.cpu.packed import PanelKernel
from fullbore.ops.contract import Kernel

# The best instruction set here, and AMX tiles computed by its ordinary instructions (csrc/amx_emulated.h).
_BEST = runnable(cpu_flags())[0]
EMULATED_AMX = Isa(
    "amx_emulated",
    _BEST.machines,
    _BEST.cpu_flags,
    (*_BEST.compiler_flags, "-DFULLBORE_EMULATED_TILES"),
)


@functools.cache
def native_of(isa: Isa, threads: int) -> Native:
    return load((isa,), threads)


@functools.cache
def isas() -> tuple[Isa, ...]:
    """Those that have an object, or a compiler that can make one; where there is a compiler, all of them."""
    return tuple(isa for isa in runnable(cpu_flags()) if _exists(isa))


@functools.cache
def panel_isas() -> tuple[Isa, ...]:
    """For the kernels on panels of weights, which have a way of their own where there are tiles."""
    return (*isas(), *(isa for isa in (EMULATED_AMX,) if _exists(isa)))


def _exists(isa: Isa) -> bool:
    try:
        native_of(isa, 2)
    except NativeUnavailable:
        if _can_compile():
            raise
        return False
    return True


def _can_compile() -> bool:
    try:
        compiler()
    except CompileError:
        return False
    return True


def instances(kernel: type[Kernel], dtype: str) -> Iterator[tuple[str, Kernel]]:
    """The kernel under a name that says where it runs."""
    if not issubclass(kernel, CpuKernel):
        yield kernel.name, kernel(dtype)
        return
    for isa in panel_isas() if issubclass(kernel, PanelKernel) else isas():
        yield f"{kernel.name} on {isa.name}", kernel(dtype, native_of(isa, 2))
