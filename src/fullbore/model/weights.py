"""What ``--weights`` may say: the format that each matrix is converted to at load. Imports no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fullbore.errors import UsageError, did_you_mean
from fullbore.model.specs import TensorSpec

STORED = "stored"
_KEPT_FROM_FP8 = ("lm_head.weight", "eh_proj.weight")


@dataclass(frozen=True)
class Recipe:
    """Formats by what a matrix does; "" leaves it as it is stored.

    Embeddings, router gates, norms and biases are always as stored: they are few bytes or read by rows, and
    a gate that is slightly off sends tokens to other experts.
    """

    name: str
    linear: str = ""
    kv_b: str = ""
    head: str = ""  # lm_head and MTP's eh_proj, which the published format keeps from FP8

    def format(self, spec: TensorSpec) -> str:
        """The format of this tensor; "" for "as stored"."""
        if spec.kind == "linear":
            return self.kv_b if spec.name.endswith(".kv_b_proj.weight") else self.linear
        return self.head if spec.name.endswith(_KEPT_FROM_FP8) else ""


# Integers leave kv_b as it is: an error there is in every key and value of the whole context. With numbers of
# 4 bits the head has 8, since its errors are in the logits themselves. Both are a few percent of the bytes.
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            Recipe(STORED),
            Recipe("bf16", "bf16", "bf16", "bf16"),
            Recipe("fp8_block", "fp8_block", "fp8_block"),
            Recipe("int8", "int8", head="int8"),
            Recipe("int4", "int4_g32", head="int8"),
            Recipe("int4_g128", "int4_g128", head="int8"),
        )
    }
)


def recipe(name: str) -> Recipe:
    """The recipe of this name; UsageError with the closest one."""
    if name not in RECIPES:
        raise UsageError(
            f"--weights {name[:40]} is not known{did_you_mean(name, RECIPES)}; use {', '.join(RECIPES)}"
        )
    return RECIPES[name]


def add_weights_flag(add: Callable[..., Any]) -> None:
    """``--weights``, by the ``add_argument`` of a parser or group; an unknown name is a UsageError."""
    add(
        "--weights",
        type=lambda name: recipe(name).name,
        default=STORED,
        metavar="FORMAT",
        help=f"convert them as they are loaded: {', '.join(RECIPES)} (default: {STORED})",
    )
