"""Which kernels exist. Registering one imports nothing: it is named by its module path."""

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from types import new_class
from typing import Any

from fullbore.errors import FullboreError
from fullbore.ops.contract import Kernel


@dataclass(frozen=True)
class Entry:
    """A kernel by name. ``path`` is "package.module:Class", imported when a selection considers it.

    ``devices``: where it may run. For a job elsewhere it is not even imported: that may load a compiler.
    ``constants``: attributes of the class that this kernel has others of, the sizes of its tiles say.
    """

    operator: str
    name: str
    path: str
    devices: tuple[str, ...] = ("cpu",)
    constants: tuple[tuple[str, Any], ...] = ()

    def load(self) -> type[Kernel]:
        """The kernel's class. An ImportError (a library that is not installed) passes to the caller."""
        module, _, attribute = self.path.partition(":")
        kernel: type[Kernel] = getattr(importlib.import_module(module), attribute)
        if self.constants:
            kernel = _with_constants(kernel, self.name, self.constants)
        if (kernel.operator, kernel.name) != (self.operator, self.name):
            raise FullboreError(
                f"{self.path} is registered as {self.operator}/{self.name} but calls itself "
                f"{kernel.operator}/{kernel.name}; make the two agree"
            )
        return kernel


@cache
def _with_constants(kernel: type[Kernel], name: str, constants: tuple[tuple[str, Any], ...]) -> type[Kernel]:
    """One class each, however often it is asked for: classes are told apart by identity."""
    unknown = [constant for constant, _ in constants if not hasattr(kernel, constant)]
    if unknown:
        raise FullboreError(
            f"{kernel.operator}/{name} sets {', '.join(unknown)}, which {kernel.__name__} does not have"
        )
    body = {"name": name, "family": kernel.name, "__module__": kernel.__module__, "__doc__": kernel.__doc__}
    return new_class(
        kernel.__name__, (kernel,), exec_body=lambda space: space.update(body, **dict(constants))
    )


class Registry:
    """Kernels in order of preference where nothing was measured; a value, never changed after it is made."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = tuple(entries)
        seen: dict[tuple[str, str], Entry] = {}
        for entry in self.entries:
            first = seen.setdefault((entry.operator, entry.name), entry)
            if first is not entry:
                # Otherwise the order of imports would choose between them.
                raise FullboreError(
                    f"two kernels of {entry.operator} are named {entry.name!r}: {first.path} and "
                    f"{entry.path}; rename one"
                )

    def on(self, device: str) -> "Registry":
        """Those that may run there."""
        return Registry(entry for entry in self.entries if device in entry.devices)

    def candidates(self, operator: str) -> tuple[Entry, ...]:
        """Every kernel of an operator."""
        return tuple(entry for entry in self.entries if entry.operator == operator)
