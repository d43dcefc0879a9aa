"""Inputs and outputs of kernels, moved between the CPU and a device."""

from typing import Any

from torch import Tensor


def moved(value: Any, place: str) -> Any:
    """``value``, a tensor or tuples of them and of other things, in ``place`` (torch's name of it)."""
    if isinstance(value, tuple):
        return tuple(moved(each, place) for each in value)
    return value.to(place) if isinstance(value, Tensor) else value
