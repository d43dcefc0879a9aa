"""Who was measured, and by whom: a figure without them is a rumour."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field

from fullbore import __version__
from fullbore.hardware.cpu import cpu_model


@dataclass(frozen=True)
class Server:
    """A server as a report names it; "" and 0 where it does not say."""

    url: str = ""  # without /v1
    model: str = ""
    software: str = ""  # its Server header
    version: str = ""
    weights: str = ""  # their format
    vocab_size: int = 0
    max_model_len: int = 0
    flags: Mapping[str, str] = field(default_factory=dict)  # what it was started with and runs on
    emulated: str = ""  # what of it is emulated, where its answers mean nothing
    groups: int = 1  # data-parallel ones of an emulated server, of which one was measured

    def describe(self) -> str:
        """``fullbore 0.1.0, DeepSeek-R1 (fp8)``."""
        software = " ".join(part for part in (self.software, self.version) if part)
        model = f"{self.model}{f' ({self.weights})' if self.weights else ''}"
        parts = filter(None, (software, model, self.emulated))
        return ", ".join(parts) or "a server that is not named"


@dataclass(frozen=True)
class Machine:
    """The client's machine, and what else it had to do."""

    system: str = ""
    cpu: str = ""
    cores: int = 0  # that this process may use
    load_average: float | None = None  # over the minute before the load
    python: str = ""
    fullbore: str = ""

    @classmethod
    def here(cls) -> "Machine":
        try:
            cores = len(os.sched_getaffinity(0))
        except AttributeError:  # not on Linux
            cores = os.cpu_count() or 0
        return cls(
            system=platform.platform(),
            cpu=cpu_model(),
            cores=cores,
            load_average=round(os.getloadavg()[0], 2),
            python=platform.python_version(),
            fullbore=__version__,
        )

    def describe(self) -> str:
        """``AMD EPYC 9R14, 2 cores, load average 0.3``."""
        load = "" if self.load_average is None else f"load average {self.load_average:g}"
        cores = f"{self.cores} core{'s' if self.cores != 1 else ''}" if self.cores else ""
        return ", ".join(part for part in (self.cpu, cores, load) if part) or "not known"


@dataclass(frozen=True)
class Simulation:
    """What a simulated result rests on: nothing of it was measured.

    deviation: of ``tpot_ms``, ``ttft_ms`` and ``output_tok_s``, the standard deviation of the logarithm of
    truth over figure that the model gives itself.
    """

    hardware: str  # ``8xMI300X``
    engine: str  # whose step times: ``SGLang 0.5.9``
    scheduler: str  # whose rules
    profile: str  # what its factors rest on
    basis: str  # fitted, architecture, vendor or assumed
    version: str  # of the model: equal ones give equal figures
    deviation: Mapping[str, float] = field(default_factory=dict)

    def describe(self) -> str:
        """``SGLang 0.5.9 on 8xMI300X, its rules in counts; step times from 8 published rows ...``."""
        return (
            f"{self.engine} on {self.hardware}, {self.scheduler}; step times from {self.profile} "
            f"(model {self.version})"
        )
