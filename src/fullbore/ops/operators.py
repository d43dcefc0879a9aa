"""Every operator by name."""

from collections.abc import Mapping
from types import MappingProxyType

from fullbore.ops.attention import MLA_DECODE, MLA_PREFILL
from fullbore.ops.collectives import COLLECTIVES
from fullbore.ops.contract import Operator
from fullbore.ops.drawn import DRAW_EXPERTS
from fullbore.ops.ffn import SWIGLU
from fullbore.ops.greedy import GREEDY
from fullbore.ops.latents import LATENTS
from fullbore.ops.linear import EMBED, LINEAR
from fullbore.ops.moe import MOE_FFN
from fullbore.ops.norm import ADD_RMS_NORM, RMS_NORM
from fullbore.ops.rope import ROPE
from fullbore.ops.route import ROUTE

_ALL = (
    EMBED, LINEAR, RMS_NORM, ADD_RMS_NORM, LATENTS, ROPE, MLA_PREFILL, MLA_DECODE, ROUTE, MOE_FFN, SWIGLU,
    GREEDY, DRAW_EXPERTS, *COLLECTIVES.values(),
)  # fmt: skip

OPERATORS: Mapping[str, Operator] = MappingProxyType({operator.name: operator for operator in _ALL})
