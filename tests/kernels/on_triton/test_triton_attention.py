"""Parts of contexts: what decode makes of them depends on no table's width, and empty rows are zeros."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore.ops.attention import MLA_DECODE

pytest.importorskip("triton", reason="triton is not installed (pip install 'fullbore[gpu]')")

from fullbore.kernels.triton.attention import TritonMlaDecode

SHAPE = {"heads": 3, "nope": 20, "rope": 6, "v": 12, "latent": 33}


@settings(max_examples=6)
@given(
    st.integers(0, 99),
    st.lists(st.sampled_from([0, 1, 127, 128, 129, 600]), min_size=1, max_size=5),
    st.integers(0, 9),
)
def test_long_contexts_among_short_ones(seed: int, contexts: list[int], wider: int) -> None:
    """The same bits with a wider table, whose other pages do not exist; a row without keys gets zeros."""
    generator = torch.Generator().manual_seed(seed)
    shape = SHAPE | {"rows": len(contexts), "context": 600}
    drawn = MLA_DECODE.draw(shape, "even", "bf16", torch.bfloat16, generator)
    kernel = TritonMlaDecode("bfloat16")
    q, cache, table = (each.to(kernel.target.device) for each in drawn.inputs[:3])
    given_contexts = torch.tensor(contexts, dtype=torch.int32, device=q.device)
    packed = kernel.pack(*drawn.weights)
    wide = torch.nn.functional.pad(table, (0, wider), value=2**30)
    output = kernel.run(packed, q, cache, table, given_contexts)
    assert torch.equal(output, kernel.run(packed, q, cache, wide, given_contexts))
    there = [row for row, context in enumerate(contexts) if context]
    assert not output[[row for row, context in enumerate(contexts) if not context]].any()
    if there:
        inputs = drawn.inputs[0][there], drawn.inputs[1], table.cpu()[there], given_contexts.cpu()[there]
        expected = MLA_DECODE.reference(drawn.weights, *inputs)
        limit = MLA_DECODE.limit("bf16", "bfloat16")
        assert MLA_DECODE.error(output[there].cpu(), expected) <= limit
