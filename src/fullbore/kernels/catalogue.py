"""Every kernel there is, in order of preference where nothing was measured."""

from fullbore.kernels.cpu import KERNELS as CPU
from fullbore.kernels.torch import KERNELS as TORCH
from fullbore.kernels.triton import KERNELS as TRITON
from fullbore.kernels.vendor import KERNELS as VENDOR
from fullbore.ops.registry import Registry

CATALOGUE = Registry((*CPU, *TORCH, *TRITON, *VENDOR))
