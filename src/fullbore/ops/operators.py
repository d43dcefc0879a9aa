"""Every operator by name."""

from collections.abc import Mapping
from types import MappingProxyType

from fullbore.ops.attention import KV_APPEND, MLA_DECODE, MLA_PREFILL
from fullbore.ops.contract import Operator
from fullbore.ops.ffn import SWIGLU
from fullbore.ops.greedy import GREEDY
from fullbore.ops.linear import EMBED, LINEAR
from fullbore.ops.moe import MOE_FFN
from fullbore.ops.norm import RMS_NORM
from fullbore.ops.rope import ROPE
from fullbore.ops.route import ROUTE

_ALL = (EMBED, LINEAR, RMS_NORM, ROPE, KV_APPEND, MLA_PREFILL, MLA_DECODE, ROUTE, MOE_FFN, SWIGLU, GREEDY)

OPERATORS: Mapping[str, Operator] = MappingProxyType({operator.name: operator for operator in _ALL})
