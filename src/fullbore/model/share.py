"""Which part of each tensor one device of a layout holds. Imports no torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from fullbore.errors import UsageError
from fullbore.model.config import ModelConfig
from fullbore.model.specs import TensorSpec, layer_of
from fullbore.parallel.layout import Layout, possible_layouts
from fullbore.parallel.rank import Role

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
EXPERTS = ".mlp.experts."


@dataclass(frozen=True)
class Cut:
    """``parts`` devices share a matrix along ``axis`` (0: outputs)."""

    axis: int
    parts: int


def cut_of(spec: TensorSpec, layout: Layout) -> Cut:
    """How ``layout`` cuts a tensor; parts is 1 where it is whole."""
    name, parts = spec.name, layout.tp
    if EXPERTS in name:
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
        if EXPERTS in name and int(name.split(EXPERTS)[1].split(".")[0]) not in experts:
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
