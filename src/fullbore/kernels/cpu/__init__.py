"""Kernels in C++ for any CPU, loaded through a plain C interface (``native``)."""

from fullbore.ops.registry import Entry

KERNELS: tuple[Entry, ...] = ()
