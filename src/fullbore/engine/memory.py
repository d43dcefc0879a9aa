"""What a device's memory holds, and what to lower where it is short."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from fullbore.engine.graphs import largest
from fullbore.engine.options import EngineOptions
from fullbore.engine.sizing import GIB
from fullbore.engine.stream import Stream, Work
from fullbore.errors import CapacityError
from fullbore.hardware.device import Device

_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": GIB}
_WANTED = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|[KMG]iB)")  # torch's words


@dataclass(frozen=True)
class Phase:
    """When memory can run short, and the flags that help then, the one that costs least first."""

    name: str
    flags: tuple[str, ...]


LOADING = Phase("loading the weights", ("--weights",))
REHEARSING = Phase(
    "trying the largest step", ("--max-num-batched-tokens", "--max-num-seqs", "--max-model-len")
)
CACHING = Phase("making the cache", ("--kv-gb",))
CAPTURING = Phase("capturing graphs of decodes", ("--kv-gb", "--cuda-graph-max-bs", "--max-num-seqs"))
SERVING = Phase("computing a step", ("--kv-gb", "--max-num-batched-tokens", "--max-num-seqs"))


class Holdings:
    """Bytes on ``device`` by what they are for, noted as a start goes on."""

    def __init__(self, device: Device, options: EngineOptions) -> None:
        self.weights = self.cache = self.graphs = 0
        self._device, self._options = device, options

    @contextlib.contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """CapacityError instead of torch's where memory runs short."""
        try:
            yield
        except RuntimeError as error:
            short = _shortage(error)
            if short is None:
                raise
            raise CapacityError(self._words(phase, str(short))) from error

    def _words(self, phase: Phase, error: str) -> str:
        found = _WANTED.search(error)
        wanted = float(found[1]) * _UNITS[found[2]] if found else 0.0
        more = f"{wanted / GIB:.2f} GiB more were wanted, " if found else ""
        held = {"weights": self.weights, "cache": self.cache, "graphs": self.graphs}
        table = ", ".join(f"{name} {size / GIB:.2f} GiB" for name, size in held.items() if size)
        free = self._device.free_bytes() / GIB
        return (
            f"out of memory on the device while {phase.name}: {more}{free:.2f} GiB are free"
            f"{f'; {table}' if table else ''} (lower {self._advice(phase, wanted)})"
        )

    def _advice(self, phase: Phase, wanted: float) -> str:
        options, least = self._options, self.cache - wanted
        now = {
            "--kv-gb": f"from {self.cache / GIB:.2f} to {least / GIB:.2f}"
            if self.cache and least > 0
            else "",
            "--weights": f"from {options.weights} to a smaller format, or take a larger device",
            "--cuda-graph-max-bs": f"from {largest(options)}, or --disable-cuda-graph",
            "--max-num-seqs": f"from {options.max_num_seqs}",
            "--max-num-batched-tokens": f"from {options.max_num_batched_tokens}",
            "--max-model-len": f"from {options.max_model_len}" if options.max_model_len else "",
        }
        return " or ".join(f"{flag} {now[flag]}".strip() for flag in phase.flags)


def _shortage(error: BaseException | None) -> torch.OutOfMemoryError | None:
    """Of ``error`` and what it was raised over: a capture that fails complains of itself at its end."""
    while error is not None and not isinstance(error, torch.OutOfMemoryError):
        error = error.__cause__ or error.__context__
    return error


class Accounted:
    """``stream``, whose work says what to lower where memory runs short."""

    def __init__(self, stream: Stream, holdings: Holdings) -> None:
        self._stream, self._holdings = stream, holdings
        self.record, self.capture = stream.record, stream.capture
        self.to_device, self.to_host = stream.to_device, stream.to_host

    def run(self, work: Work) -> None:
        with self._holdings.during(SERVING):
            self._stream.run(work)
