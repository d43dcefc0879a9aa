"""Every peer there is, and how a user names some of them."""

from collections.abc import Sequence

from benchmarks.peers.fullbore_server import Fullbore
from benchmarks.peers.llama_cpp import LlamaCpp
from benchmarks.peers.peer import Peer
from benchmarks.peers.transformers_generate import TransformersGenerate
from benchmarks.peers.vllm_cpu import VllmCpu
from fullbore.errors import UsageError, did_you_mean

PEERS: tuple[Peer, ...] = (
    Fullbore("fp8_block"),
    Fullbore("bf16"),
    Fullbore("int8"),
    Fullbore("int4"),
    LlamaCpp("BF16"),
    LlamaCpp("Q8_0"),
    LlamaCpp("Q4_0"),
    LlamaCpp("Q4_K_M"),
    VllmCpu(zentorch=False),
    VllmCpu(zentorch=True),
    TransformersGenerate(),
)


def choose(wanted: Sequence[str], peers: Sequence[Peer] = PEERS) -> tuple[Peer, ...]:
    """Peers whose name is one of ``wanted``, or begins with it as a word (``llama.cpp`` names four)."""
    chosen: list[Peer] = []
    for word in wanted:
        found = [peer for peer in peers if peer.name == word]
        found = found or [peer for peer in peers if peer.name.startswith(f"{word} ")]
        if not found:
            names = [peer.name for peer in peers]
            raise UsageError(
                f"unknown peer {word!r}{did_you_mean(word, names)}; expected some of {', '.join(names)}"
            )
        chosen += [peer for peer in found if peer not in chosen]
    return tuple(chosen)
