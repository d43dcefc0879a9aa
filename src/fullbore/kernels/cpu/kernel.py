"""What the kernels in C++ have in common: the object they run in, and how they say that there is none."""

import ctypes
import struct
from collections.abc import Callable
from typing import Any, ClassVar

from fullbore.kernels.cpu.native import Native, NativeUnavailable, native
from fullbore.ops.contract import Job, Kernel

P = ctypes.c_void_p  # a pointer, given as the integer that ``data_ptr`` returns
I = ctypes.c_int64  # noqa: E741 - a size or a count

Call = Callable[..., Any]
Pack = Callable[..., bytes]


class CpuKernel(Kernel):
    """``native``: another object than this process's own, for tests."""

    name = "cpu"
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")

    def __init__(self, dtype: str, native_: Native | None = None) -> None:
        super().__init__(dtype)
        self.native = native_ or native()
        self.pool = self.native.pool
        self.pool_address = self.pool.value
        self.is_bf16 = int(dtype == "bfloat16")

    @classmethod
    def unsupported(cls, job: Job) -> list[str]:
        reasons = super().unsupported(job)
        try:
            native()
        except NativeUnavailable as error:
            reasons.append(str(error))
        return reasons

    @classmethod
    def binary(cls) -> str:
        return str(native().lib._name)

    def function(self, name: str, *arguments: Any, result: Any = None) -> Call:
        """An exported function of the object, its types fixed once so that a call converts nothing."""
        found = self.native.lib[name]  # by index: a fresh object, whose types no other user sets
        found.argtypes, found.restype = arguments, result
        return found

    def struct_function(self, name: str, fields: str, result: Any = None) -> tuple[Call, Pack]:
        """An exported function that takes one struct, and what makes the struct of its ``fields``, which are
        spelled as for the module ``struct``. To convert as many arguments takes ctypes ten times as long.
        """
        return self.function(name, ctypes.c_char_p, result=result), struct.Struct(fields).pack
