"""Kernels as tests make them: those in C++ once for each instruction set that this machine can run."""

import functools
from collections.abc import Iterator

from fullbore.hardware.cpu import cpu_flags
from fullbore.kernels.cpu.build import CompileError, Isa, compiler
from fullbore.kernels.cpu.kernel import CpuKernel
from fullbore.kernels.cpu.native import Native, NativeUnavailable, load, runnable
from fullbore.ops.contract import Kernel


@functools.cache
def native_of(isa: Isa, threads: int) -> Native:
    return load((isa,), threads)


@functools.cache
def isas() -> tuple[Isa, ...]:
    """Those that have an object, or a compiler that can make one; where there is a compiler, all of them."""
    found = []
    for isa in runnable(cpu_flags()):
        try:
            native_of(isa, 2)
        except NativeUnavailable:
            if _can_compile():
                raise
            continue
        found.append(isa)
    return tuple(found)


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
    for isa in isas():
        yield f"{kernel.name} on {isa.name}", kernel(dtype, native_of(isa, 2))
