"""What a network is built from: stored tensors by name, and kernels bound to them."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from fullbore.hardware.device import Device
from fullbore.ops.ffn import Expert
from fullbore.ops.formats import Weight
from fullbore.parallel.rank import Role

Call = Callable[..., Any]


class Parts(Protocol):
    """Handed to the constructors of the network. Tensors are views of a file, good until the next bind."""

    def weight(self, name: str) -> Weight:
        """The matrix ``name`` ("model.layers.0.mlp.up_proj.weight") with its scale, if it has one."""
        ...

    def tensor(self, name: str) -> Tensor:
        """The vector ``name``."""
        ...

    def bind(self, operator: str, *weights: Any) -> Call:
        """The kernel chosen for this operator and these weights, packed."""
        ...

    def bind_all(self, operators: Sequence[str], *weights: Any) -> tuple[Call, ...]:
        """Several operators on the same weights, packed once where their kernels share a layout."""
        ...

    def done(self) -> None:
        """What was handed out is packed; its mapped memory may go."""
        ...

    @property
    def device(self) -> Device:
        """Where what is bound computes."""
        ...

    @property
    def role(self) -> Role:
        """Which part of the network this is."""
        ...

    @property
    def bytes(self) -> int:
        """Size of everything bound so far."""
        ...


class Experts(Sequence[Expert]):
    """Gate, up and down of each of a layer's experts, read as they are asked for: one, or a run of them."""

    def __init__(self, parts: Parts, prefixes: Sequence[str]) -> None:
        self._parts, self._prefixes = parts, prefixes

    def __len__(self) -> int:
        return len(self._prefixes)

    def __getitem__(self, index: Any) -> Any:
        """Expert ``index``, or the list of a slice. Asking says that what came before is packed."""
        prefixes = self._prefixes[index]
        self._parts.done()
        if isinstance(prefixes, str):
            return ffn_weights(self._parts, prefixes)
        return [ffn_weights(self._parts, prefix) for prefix in prefixes]


def ffn_weights(parts: Parts, prefix: str) -> Expert:
    """Gate, up and down of the feed-forward at ``prefix``."""
    gate, up, down = (parts.weight(f"{prefix}{name}_proj.weight") for name in ("gate", "up", "down"))
    return gate, up, down
