"""Kernels of ``add_rms_norm`` that take a known time of a clock of their own."""

from typing import Any

from fullbore.ops.contract import Job, Kernel
from fullbore.ops.registry import Entry, Registry

ENTRIES = tuple(
    Entry("add_rms_norm", name, f"fake_kernels:{name.capitalize()}")
    for name in ("quick", "slow", "unfit", "stopping")
)
ABSENT = Entry("add_rms_norm", "absent", "no_such_library:Kernel")


def registry(*names: str) -> Registry:
    return Registry([entry for entry in (*ENTRIES, ABSENT) if entry.name in names])


class Clock:
    """Stands still but for what kernels add to it."""

    now_s = 0.0
    calls: tuple[str, ...] = ()

    @classmethod
    def read(cls) -> float:
        return cls.now_s


class Timed(Kernel):
    operator = "add_rms_norm"
    layout = "fake"
    devices = ("cpu",)
    formats = ("none",)
    dtypes = ("float32", "bfloat16")
    takes_s = 0.0

    def run(self, packed: Any, *inputs: Any) -> Any:
        Clock.now_s += self.takes_s
        Clock.calls += (self.name,)
        return inputs[0]


class Quick(Timed):
    name = "quick"
    takes_s = 100e-6


class Slow(Timed):
    name = "slow"
    takes_s = 200e-6


class Unfit(Timed):
    name = "unfit"

    @classmethod
    def unsupported(cls, job: Job) -> list[str]:
        return ["needs a moon phase"]


class Stopping(Timed):
    """As if the user pressed Ctrl-C at the second point."""

    name = "stopping"

    def run(self, packed: Any, *inputs: Any) -> Any:
        if len(inputs[0]) == 4:
            raise KeyboardInterrupt
        return inputs[0]
