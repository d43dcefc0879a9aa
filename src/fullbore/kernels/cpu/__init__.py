"""Kernels in C++ for any CPU, loaded through a plain C interface (``native``).

Activations in float32 are computed in float32; in bfloat16 with the processor's bfloat16 products where it
has them, else in float32. Sums are float32 always. A row's bits depend on that row alone: not on the rest
of the batch, on chunk borders, on pages, or on the number of threads.
"""

from fullbore.ops.registry import Entry

_HERE = "fullbore.kernels.cpu"

KERNELS: tuple[Entry, ...] = (
    Entry("route", "cpu", f"{_HERE}.route:CpuRoute"),
    Entry("rms_norm", "cpu", f"{_HERE}.pointwise:CpuRmsNorm"),
    Entry("rope", "cpu", f"{_HERE}.pointwise:CpuRope"),
    Entry("kv_append", "cpu", f"{_HERE}.attention:CpuKvAppend"),
    Entry("mla_prefill", "cpu", f"{_HERE}.attention:CpuMlaPrefill"),
    Entry("mla_decode", "cpu", f"{_HERE}.attention:CpuMlaDecode"),
)
