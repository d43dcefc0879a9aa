"""Which part of each tensor one device of a layout holds, and a source that hands out those parts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from fullbore.errors import UsageError
from fullbore.model.config import ModelConfig
from fullbore.model.specs import BLOCK, TensorSpec, layer_of
from fullbore.model.workload import Source
from fullbore.ops.formats import Weight, outline
from fullbore.parallel.layout import Layout, possible_layouts
from fullbore.parallel.rank import Rank, Role

# Cut by outputs (heads, inner columns, vocabulary), or by inputs; all others are whole on every device. The
# embedding's inputs are its tokens' values: so each device has some of every token's.
_BY_ROWS = (
    "lm_head.weight",
    ".q_proj.weight",
    ".q_b_proj.weight",
    ".kv_b_proj.weight",
    ".gate_proj.weight",
    ".up_proj.weight",
)
_BY_COLUMNS = ("model.embed_tokens.weight", ".o_proj.weight", ".down_proj.weight")
_EXPERTS = ".mlp.experts."


@dataclass(frozen=True)
class Cut:
    """``parts`` devices share a matrix along ``axis`` (0: outputs)."""

    axis: int
    parts: int


def cut_of(spec: TensorSpec, layout: Layout) -> Cut:
    """How ``layout`` cuts a tensor; parts is 1 where it is whole."""
    name, parts = spec.name, layout.tp
    if _EXPERTS in name:
        parts = layout.expert_tp
    elif name == "lm_head.weight":
        parts = layout.devices
    if len(spec.shape) == 2 and name.endswith(_BY_ROWS):
        return Cut(0, parts)
    return Cut(1, parts if len(spec.shape) == 2 and name.endswith(_BY_COLUMNS) else 1)


def held_specs(specs: Mapping[str, TensorSpec], config: ModelConfig, role: Role) -> dict[str, TensorSpec]:
    """The tensors that ``role`` needs, in the shapes that its rank holds. UsageError for an uneven cut."""
    rank = role.rank
    if config.tie_word_embeddings and rank.layout.devices > 1:
        raise UsageError(
            f"layout {rank.layout}: a model whose embedding is its head too (tie_word_embeddings) is cut by "
            "columns for one and by rows for the other; only models with both can be cut"
        )
    experts = rank.experts(config.n_routed_experts)
    found = {}
    for name, spec in specs.items():
        layer = layer_of(name)
        main = layer is not None and layer < config.num_hidden_layers
        if main and role.weights_of(layer or 0, config.first_k_dense_replace) != layer:
            continue
        if _EXPERTS in name and int(name.split(_EXPERTS)[1].split(".")[0]) not in experts:
            continue
        cut = cut_of(spec, rank.layout)
        if cut.parts == 1:
            found[name] = spec
            continue
        if spec.shape[cut.axis] % cut.parts:
            raise UsageError(
                f"layout {rank.layout} cannot cut {name} {list(spec.shape)} into {cut.parts} equal parts; "
                f"{_advice(specs, config, rank.layout)}"
            )
        shape = list(spec.shape)
        shape[cut.axis] //= cut.parts
        found[name] = replace(spec, shape=tuple(shape))
    return found


def _advice(specs: Mapping[str, TensorSpec], config: ModelConfig, layout: Layout) -> str:
    possible = [
        str(other)
        for other in possible_layouts(config, layout.devices)
        if all(cut.parts == 1 or spec.shape[cut.axis] % cut.parts == 0 for spec, cut in _cuts(specs, other))
    ]
    return f"on {layout.devices} devices possible: {', '.join(possible) or 'none'}"


def _cuts(specs: Mapping[str, TensorSpec], layout: Layout) -> Iterator[tuple[TensorSpec, Cut]]:
    return ((spec, cut_of(spec, layout)) for spec in specs.values())


class Held:
    """``source``'s tensors as one rank holds them: views."""

    def __init__(self, source: Source, held: Mapping[str, TensorSpec], whole: Mapping[str, TensorSpec],
                 rank: Rank) -> None:  # fmt: skip
        """held: of ``held_specs``; whole: the same tensors uncut."""
        self._source, self._held, self._whole, self._rank = source, held, whole, rank
        self.tensor, self.release = source.tensor, source.release  # vectors are whole on every device

    def outline(self, name: str) -> Weight:
        return outline(self._held[name].shape, self._source.outline(name).format)

    def weight(self, name: str) -> Weight:
        """UsageError where the cut falls within FP8 blocks that would not be blocks of the part."""
        weight, cut = self._source.weight(name), cut_of(self._whole[name], self._rank.layout)
        if cut.parts == 1:
            return weight
        axis, begin, end = self._range(name, cut)
        data = weight.data.narrow(axis, begin, end - begin)
        if weight.scale is None:
            return Weight(data)
        first = begin // BLOCK
        last = -(-end // BLOCK)
        if begin % BLOCK and last - first > 1:
            raise UsageError(
                f"layout {self._rank.layout} cuts {name} at {begin}, inside a block of {BLOCK} that has one "
                "FP8 factor, and the part needs two; use a layout with fewer devices, or bf16 weights"
            )
        return Weight(data, weight.scale.narrow(axis, first, last - first), weight.integer)

    @cached_property
    def total_bytes(self) -> int:
        """Of all held tensors, as they are stored."""
        return sum(
            self.outline(name).bytes if len(spec.shape) == 2 else self.tensor(name).nbytes
            for name, spec in self._held.items()
            if not spec.optional
        )

    def _range(self, name: str, cut: Cut) -> tuple[int, int, int]:
        """(axis, first, end) of the part along it."""
        rank = self._rank
        place = rank.in_expert if _EXPERTS in name else rank.in_group
        place = rank.index if name == "lm_head.weight" else place
        size = self._whole[name].shape[cut.axis] // cut.parts
        return cut.axis, place * size, (place + 1) * size
