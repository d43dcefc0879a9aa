"""Where a model computes: the CPU, or a GPU. torch calls AMD's GPUs ``cuda`` too, and so do kernels here."""

import importlib.util
from dataclasses import dataclass

from fullbore.errors import FullboreError, UsageError
from fullbore.hardware.gpus import interpreted
from fullbore.hardware.limits import free_memory_bytes

DEVICES = ("auto", "cpu", "cuda")


class DeviceLostError(FullboreError):
    """A device that answers everything with an error; only a new process may get it back."""


@dataclass(frozen=True)
class Device:
    """kind: what kernels are registered for. place: torch's name of where tensors lie.

    They differ in Triton's interpreter, where kernels of ``cuda`` work on the CPU's memory.
    """

    kind: str
    place: str

    def free_bytes(self) -> int:
        """Memory that can be had there now."""
        if self.place == "cpu":
            return free_memory_bytes()
        import torch

        return torch.cuda.mem_get_info(self.place)[0]

    @property
    def usual_links(self) -> str:
        """What joins such devices in a server: nvlink or xgmi; for a CPU, which stands for any, xgmi."""
        if self.place == "cpu":
            return "xgmi"
        import torch

        return "xgmi" if torch.version.hip else "nvlink"


CPU = Device("cpu", "cpu")
CUDA = Device("cuda", "cuda")
INTERPRETER = Device("cuda", "cpu")


def find_device(name: str) -> Device:
    """The device that ``--device`` says: auto, cpu or cuda. UsageError where it is not to be had."""
    if name not in DEVICES:
        raise UsageError(f"--device {name} is not known; use one of {', '.join(DEVICES)}")
    if name == "cpu":
        return CPU
    if interpreted():
        return INTERPRETER if name == "cuda" else CPU
    lack = _lack()
    if lack and name == "cuda":
        raise UsageError(f"--device cuda: {lack} (or use --device cpu)")
    return CPU if lack else CUDA


def _lack() -> str:
    """Why no GPU can be used; "" where one can."""
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        return (
            "torch sees no GPU" if built else "this torch was built for CPUs only (install one for your GPU)"
        )
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install 'fullbore[gpu]')"
    return ""
