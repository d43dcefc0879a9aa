"""A source of the parts of tensors that one device of a layout holds."""

from collections.abc import Mapping
from functools import cached_property

from fullbore.errors import UsageError
from fullbore.model.share import EXPERTS, Cut, cut_of
from fullbore.model.specs import BLOCK, TensorSpec
from fullbore.model.workload import Source
from fullbore.ops.formats import Weight, outline
from fullbore.parallel.rank import Rank


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
        place = rank.in_expert if EXPERTS in name else rank.in_group
        place = rank.index if name == "lm_head.weight" else place
        size = self._whole[name].shape[cut.axis] // cut.parts
        return cut.axis, place * size, (place + 1) * size
