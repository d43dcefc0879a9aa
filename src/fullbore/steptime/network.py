"""The network as one device of a layout sees it: its matrices, their bytes, and the cache's."""

from dataclasses import dataclass

from fullbore.errors import UsageError, did_you_mean
from fullbore.model.config import ModelConfig
from fullbore.parallel.layout import Layout


@dataclass(frozen=True)
class Format:
    """How numbers are stored: ``value_bytes`` each, and ``scale_bytes`` for every block of [rows, columns].

    peak: the unit that multiplies them: fp4, fp8 or bf16. whole: blocks at the edges are stored filled up.
    """

    name: str
    value_bytes: float
    peak: str
    scale_bytes: float = 0.0
    block: tuple[int, int] = (1, 1)
    whole: bool = False

    @property
    def bytes(self) -> float:
        """Of one number of a large matrix, its share of the scale included."""
        return self.value_bytes + self.scale_bytes / (self.block[0] * self.block[1])

    def stored_bytes(self, rows: int, columns: int) -> float:
        """Of a matrix of this shape."""
        blocks = -(-rows // self.block[0]) * -(-columns // self.block[1])
        numbers = blocks * self.block[0] * self.block[1] if self.whole else rows * columns
        return numbers * self.value_bytes + blocks * self.scale_bytes


BF16 = Format("bf16", 2.0, "bf16")
_FP8 = Format("fp8", 1.0, "fp8", 4, (128, 128))
_INT8 = Format("int8", 1.0, "fp8", 2, (1, 128))
_INT4 = Format("int4", 0.5, "bf16", 2, (1, 128))
_FP4 = Format("fp4", 0.5, "fp4", 1, (1, 16))


@dataclass(frozen=True)
class Recipe:
    """Formats of a whole model: experts and dense feed-forward, attention, and everything else in bf16."""

    name: str
    experts: Format
    attention: Format


# What the published and the usual checkpoints hold. FP4 ones keep attention in bf16.
RECIPES = {
    "bf16": Recipe("bf16", BF16, BF16),
    "fp8": Recipe("fp8", _FP8, _FP8),
    "int8": Recipe("int8", _INT8, _INT8),
    "int4": Recipe("int4", _INT4, _INT4),
    "fp4": Recipe("fp4", _FP4, BF16),
}
CACHE_BYTES = {"bf16": 2.0, "fp8": 1.0}  # of one cached value


def find_recipe(name: str) -> Recipe:
    """UsageError for a name that is none."""
    if name not in RECIPES:
        raise UsageError(
            f"unknown weights {name!r}{did_you_mean(name, RECIPES)}; expected one of {', '.join(RECIPES)}"
        )
    return RECIPES[name]


@dataclass(frozen=True)
class Matrix:
    """Activations [tokens, columns] times this give [tokens, rows]. ``count``: of its kind on one device."""

    name: str
    rows: int
    columns: int
    format: Format
    count: int = 1

    @property
    def bytes(self) -> float:
        return self.count * self.rows * self.columns * self.format.bytes

    @property
    def flop(self) -> float:
        """For each token that visits one of them."""
        return 2.0 * self.rows * self.columns


@dataclass(frozen=True)
class Share:
    """What one device computes in one layer of each kind, and at the ends."""

    attention: tuple[Matrix, ...]
    dense: tuple[Matrix, ...]
    router: Matrix
    shared: tuple[Matrix, ...]
    experts: tuple[Matrix, ...]  # of all local experts
    head: Matrix
    embedding: Matrix
    draft: Matrix  # the projection in front of an MTP layer


def share(config: ModelConfig, layout: Layout, recipe: Recipe) -> Share:
    """One device's part under ``layout``."""
    hidden, heads = config.hidden_size, config.num_attention_heads // layout.tp
    latent, attention, experts = config.latent_dim, recipe.attention, recipe.experts
    rank = config.q_lora_rank
    query = (
        (
            Matrix("q_a + kv_a", rank + latent, hidden, attention),
            Matrix("q_b", heads * config.qk_head_dim, rank, attention),
        )
        if rank is not None
        else (
            Matrix("q", heads * config.qk_head_dim, hidden, attention),
            Matrix("kv_a", latent, hidden, attention),
        )
    )
    # Absorbed into the queries and the outputs at decode; a bf16 copy of W_UK and W_UV, as engines keep it.
    kv_b = Matrix("kv_b", heads * (config.qk_nope_head_dim + config.v_head_dim), config.kv_lora_rank, BF16)
    output = Matrix("o", hidden, heads * config.v_head_dim, attention)
    # A shared expert is cut like attention: with data-parallel attention each device has it whole.
    return Share(
        attention=(*query, kv_b, output),
        dense=_ffn("dense", hidden, config.intermediate_size // layout.tp, experts),
        router=Matrix("router", config.n_routed_experts, hidden, BF16),
        shared=_ffn(
            "shared", hidden, config.n_shared_experts * config.moe_intermediate_size // layout.tp, experts
        ),
        experts=_ffn(
            "expert",
            hidden,
            config.moe_intermediate_size // layout.expert_tp,
            experts,
            config.n_routed_experts // layout.ep,
        ),
        head=Matrix("head", -(-config.vocab_size // layout.devices), hidden, BF16),
        embedding=Matrix("embedding", -(-config.vocab_size // layout.tp), hidden, BF16),
        draft=Matrix("eh_proj", hidden, 2 * hidden, BF16),
    )


def _ffn(name: str, hidden: int, width: int, form: Format, count: int = 1) -> tuple[Matrix, ...]:
    return (
        Matrix(f"{name} gate + up", 2 * width, hidden, form, count),
        Matrix(f"{name} down", hidden, width, form, count),
    )
