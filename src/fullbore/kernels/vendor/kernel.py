"""What the adapters share: finding a library, saying where it runs, and rounding activations for it."""

import importlib
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fullbore.ops.contract import Job, Kernel
from fullbore.ops.formats import BLOCK, E4M3_MAX, Weight
from fullbore.ops.registry import NotInstalled

FNUZ = ("gfx940", "gfx941", "gfx942")  # whose e4m3 has another bias


def library(module: str, title: str, how: str) -> Any:
    """The module; NotInstalled, with ``how`` to install it, where it is not there."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # it is there, and something that it needs is not
        raise NotInstalled(f"{title} is not installed ({how})") from error


def architecture() -> str:
    """Of torch's current GPU: ``sm_90``, ``gfx942``, or "" without one."""
    if not torch.cuda.is_available():
        return ""
    told: Any = torch.cuda.get_device_properties(torch.cuda.current_device())
    amd = str(getattr(told, "gcnArchName", "")).split(":")[0]
    return amd or f"sm_{told.major}{told.minor}"


class VendorKernel(Kernel):
    """``architectures``: that its library has been made for."""

    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    formats: ClassVar[tuple[str, ...]] = ("fp8_block",)
    dtypes: ClassVar[tuple[str, ...]] = ("bfloat16",)
    rounds: ClassVar[str] = "e4m3"
    architectures: ClassVar[tuple[str, ...]]

    @classmethod
    def unsupported(cls, job: Job) -> list[str]:
        return cls.unintended(job) or cls.unfit(dict(job.shape))

    @classmethod
    def unintended(cls, job: Job) -> list[str]:
        reasons, here = super().unintended(job), architecture()
        if here not in cls.architectures:
            reasons.append(f"runs on {', '.join(cls.architectures)}, this is {here or 'no GPU'}")
        return reasons

    @classmethod
    def unfit(cls, shape: dict[str, int]) -> list[str]:
        """Why it cannot take matrices of ``shape``."""
        return []


def not_multiples(shape: dict[str, int], of: int, *names: str) -> list[str]:
    """A reason for each size that is none of ``of``."""
    return [f"takes multiples of {of} as {name}, not {shape[name]}" for name in names if shape[name] % of]


def place() -> str:
    """torch's name of where weights go."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def stacked(weights: tuple[Weight, ...]) -> tuple[Tensor, Tensor]:
    """Matrices one above the other: [out, in] e4m3 and [ceil(out / 128), in / 128] float32, in their place.

    ValueError where a block of one would begin inside another's.
    """
    if any(len(weight.data) % BLOCK for weight in weights[:-1]):
        sizes = [len(weight.data) for weight in weights]
        raise ValueError(f"matrices of {sizes} outputs have no common blocks of {BLOCK}")
    scales = [weight.scale for weight in weights if weight.scale is not None]
    data, scale = torch.cat([weight.data for weight in weights]), torch.cat(scales)
    if architecture() in FNUZ:
        data, scale = importlib.import_module("fullbore.kernels.triton.device").native_fp8(data, scale)
    return data.to(place()), scale.to(place())


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """x: [tokens, in] bfloat16, in a multiple of 128 -> [tokens, in] e4m3 and [tokens, in / 128] float32."""
    if x.is_cuda:  # in one launch, where Triton is there
        try:
            ours = importlib.import_module("fullbore.kernels.triton.linear")
            rows = ours.rows_of(importlib.import_module("fullbore.kernels.triton.device").here(), x, True)
            return rows.data, rows.scale
        except ImportError:
            pass
    fnuz = architecture() in FNUZ
    kind, largest = (torch.float8_e4m3fnuz, 240.0) if fnuz else (torch.float8_e4m3fn, E4M3_MAX)
    groups = x.float().view(len(x), -1, BLOCK)
    scale = groups.abs().amax(-1) / largest
    scale = torch.where(scale > 0, scale, 1.0)
    return (groups / scale[..., None]).view(x.shape).to(kind), scale


def by_columns(matrix: Tensor) -> Tensor:
    """The same, with columns that are contiguous, by the strides too where there is a single row."""
    return matrix.new_empty_strided(matrix.shape, (1, len(matrix))).copy_(matrix)


def with_shared(ids: Tensor, scores: Tensor, routed: int, shared: bool) -> tuple[Tensor, Tensor]:
    """Each token's choices, int32, and their weights; the shared expert, the last one, is everybody's."""
    if not shared:
        return ids.int(), scores
    return F.pad(ids, (0, 1), value=routed).int(), F.pad(scores, (0, 1), value=1.0)
