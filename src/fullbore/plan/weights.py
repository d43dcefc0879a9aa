"""What the weights take on one device: tensor by tensor, as a layout cuts them and an engine keeps them."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from fullbore.model.config import ModelConfig
from fullbore.model.share import EXPERTS as OF_EXPERTS
from fullbore.model.share import cut_of
from fullbore.model.specs import TensorSpec, is_mtp, tensor_specs
from fullbore.model.weights import recipe as conversion
from fullbore.parallel.layout import Layout
from fullbore.steptime.network import BF16, Format, Recipe

# Parts of a model, in the order of the network.
EMBEDDING, HEAD, NORMS, ATTENTION, DENSE = "embedding", "head", "norms", "attention", "dense feed-forward"
ROUTER, SHARED, EXPERTS, MTP = "router", "shared experts", "experts", "MTP"
PARTS = (EMBEDDING, ATTENTION, DENSE, ROUTER, SHARED, EXPERTS, NORMS, HEAD, MTP)

_HUGE_PAGE = 2 << 20


@dataclass(frozen=True)
class Keeping:
    """How an engine keeps tensors. format: of a matrix. vector_bytes: of a number of a norm or bias.

    copies: matrices that one tensor becomes, of [rows, columns] each. page_bytes: what large allocations
    (of two such pages) are begun on, and have more for it; 0 where they share one pool.
    """

    format: Callable[[TensorSpec], Format]
    vector_bytes: int
    copies: Callable[[TensorSpec, int, int], tuple[tuple[int, int], ...]]
    page_bytes: int = 0

    def matrix_bytes(self, spec: TensorSpec, rows: int, columns: int) -> float:
        kept = self.format(spec)
        return sum(kept.stored_bytes(*shape) for shape in self.copies(spec, rows, columns))

    def room(self, size: float) -> float:
        """What an allocation of ``size`` bytes takes."""
        return size + self.page_bytes if self.page_bytes and size >= 2 * self.page_bytes else size


def on_accelerators(recipe: Recipe) -> Keeping:
    """Matrices as ``recipe`` says; ``kv_b``, absorbed into queries and outputs, in bf16."""

    def format(spec: TensorSpec) -> Format:
        if spec.kind != "linear" or spec.name.endswith(".kv_b_proj.weight"):
            return BF16
        return recipe.attention if ".self_attn." in spec.name else recipe.experts

    return Keeping(format, 2, lambda spec, rows, columns: ((rows, columns),))


def on_cpus(config: ModelConfig, weights: str = "stored", dtype: str = "bfloat16") -> Keeping:
    """In panels of 64 outputs and blocks of 128 inputs (``kernels/cpu/csrc/matrix.h``); ``weights``: as
    ``fullbore serve --weights`` takes it."""
    wanted = conversion(weights)
    own = _PANELS["bf16" if dtype == "bfloat16" else "fp32"]
    whole_heads = config.qk_nope_head_dim % 128 == 0 and config.v_head_dim % 128 == 0
    latent = config.kv_lora_rank

    def format(spec: TensorSpec) -> Format:
        stored = "fp8_block" if spec.kind == "linear" and config.quantised else "bf16"
        if spec.name.endswith("embed_tokens.weight"):
            return Format(dtype, own.value_bytes, "bf16")  # read by rows, as the compute type has them
        if spec.name.endswith(".mlp.gate.weight"):
            return _ROUTER
        kept = _PANELS[wanted.format(spec) or stored]
        # A head's part of kv_b is packed by itself, which a factor for rows of two heads does not allow.
        apart = spec.name.endswith(".kv_b_proj.weight") and not (kept.name == "fp8_block" and whole_heads)
        return own if apart and kept.name != "bf16" else kept

    def copies(spec: TensorSpec, rows: int, columns: int) -> tuple[tuple[int, int], ...]:
        if not spec.name.endswith(".kv_b_proj.weight"):
            return ((rows, columns),)
        padded, heads = -(-latent // 32) * 32, rows // (config.qk_nope_head_dim + config.v_head_dim)
        return ((latent, config.qk_nope_head_dim), (config.v_head_dim, padded)) * heads

    return Keeping(format, 4, copies, _HUGE_PAGE)


_PANELS = {
    "fp32": Format("fp32", 4.0, "bf16", 0, (64, 128), True),
    "bf16": Format("bf16", 2.0, "bf16", 0, (64, 128), True),
    "fp8_block": Format("fp8_block", 1.0, "fp8", 64, (64, 128), True),
    "int8": Format("int8", 1.0, "fp8", 128, (64, 128), True),
    "int4_g32": Format("int4_g32", 0.5, "fp8", 512, (64, 128), True),
    "int4_g128": Format("int4_g128", 0.5, "fp8", 128, (64, 128), True),
}
_ROUTER = Format("fp32", 4.0, "bf16", 0, (64, 1), True)


def weight_bytes(
    config: ModelConfig, layout: Layout, keeping: Keeping, mtp: bool = False
) -> Mapping[str, float]:
    """Bytes on one device, by ``PARTS``. ``mtp``: with those layers, whose head and embedding are the main
    ones."""
    sums = dict.fromkeys(PARTS, 0.0)
    for spec, count in _tensors(config):
        part = MTP if is_mtp(config, spec.name) else _part(spec)
        if part == MTP and not mtp:
            continue
        if spec.kind in ("norm", "bias"):
            sums[part] += count * spec.elements * keeping.vector_bytes
            continue
        rows, columns, local = _cut(spec, layout)
        sums[part] += count * local * keeping.matrix_bytes(spec, rows, columns)
    for part, extra in _alignment(config, layout, keeping, mtp):
        sums[part] += extra
    return sums


def _part(spec: TensorSpec) -> str:
    name = spec.name
    if spec.kind == "norm":
        return NORMS
    for words, part in (
        ("embed_tokens", EMBEDDING),
        ("lm_head", HEAD),
        (".self_attn.", ATTENTION),
        (".mlp.gate.", ROUTER),
        (".shared_experts.", SHARED),
        (".experts.", EXPERTS),
    ):
        if words in name:
            return part
    return DENSE


def _cut(spec: TensorSpec, layout: Layout) -> tuple[int, int, float]:
    """(rows, columns, how many of the tensor's kind) on one device: the first, which has the most."""
    cut = cut_of(spec, layout)
    rows, columns = (
        -(-size // cut.parts) if axis == cut.axis else size for axis, size in enumerate(spec.shape)
    )
    return rows, columns, 1 / layout.ep if OF_EXPERTS in spec.name else 1.0


@cache
def _tensors(config: ModelConfig) -> tuple[tuple[TensorSpec, int], ...]:
    """One tensor of each kind, and how many there are: those whose names differ in numbers alone."""
    kinds: dict[tuple[str, bool], TensorSpec] = {}
    counts: Counter[tuple[str, bool]] = Counter()
    for name, spec in tensor_specs(config).items():
        if not spec.optional:
            key = re.sub(r"\.\d+\.", ".*.", name), is_mtp(config, name)
            kinds.setdefault(key, spec)
            counts[key] += 1
    return tuple((spec, counts[key]) for key, spec in kinds.items())


def _alignment(
    config: ModelConfig, layout: Layout, keeping: Keeping, mtp: bool
) -> Iterator[tuple[str, float]]:
    """What large allocations take beyond their matrices. Those of one layer's experts are one, shared ones
    included but where data-parallel groups gather tokens for the others; so are down-projections; ``kv_b`` is
    two, keys and values."""
    if not keeping.page_bytes:
        return
    sizes: dict[tuple[str, str], tuple[float, int]] = {}  # of one layer, and how many layers
    for spec, count in _tensors(config):
        part = MTP if is_mtp(config, spec.name) else _part(spec)
        if spec.kind in ("norm", "bias") or part == ROUTER or "embed_tokens" in spec.name:
            continue
        if part == MTP and (not mtp or ".mlp.gate." in spec.name):
            continue
        rows, columns, local = _cut(spec, layout)
        size: float = keeping.matrix_bytes(spec, rows, columns)
        name = spec.name.rpartition(".")[0].rpartition(".")[2]
        layers: int = count
        if ".mlp." in spec.name:
            routed = ".mlp.experts." in spec.name
            layers = count // config.n_routed_experts if routed else count
            size *= config.n_routed_experts * local if routed else 1.0
            apart = layout.dp > 1 and ".shared_experts." in spec.name
            name = "dense" if part == DENSE else "shared" if apart else "experts"
        elif name in ("q_a_proj", "q_proj", "kv_a_proj_with_mqa"):
            name = "down"
        key = EXPERTS if name == "experts" and part != MTP else part, name
        sizes[key] = sizes.get(key, (0.0, layers))[0] + size, layers
    for (part, name), (size, layers) in sizes.items():
        parts = 2 if name == "kv_b_proj" else 1
        yield part, layers * parts * (keeping.room(size / parts) - size / parts)
