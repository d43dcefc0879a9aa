"""``sample`` beside the server's own sampler: the same number draws the same token, however often each is
drawn."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore.engine.messages import Sampling
from fullbore.engine.sampler import SampleRow, sample, uniforms
from fullbore.kernels.torch.greedy import TorchGreedy
from fullbore.kernels.torch.sample import TorchSample
from fullbore.ops.sample import SAMPLE

NONE = np.array([], dtype=np.int64)


def drawn(logits: torch.Tensor, wishes: list[Sampling], seeds: list[int]) -> torch.Tensor:
    """The tokens of the operator, for the numbers that the server would use."""
    vocab = logits.shape[1]
    asked = (
        torch.tensor([wish.temperature for wish in wishes]),
        torch.tensor([wish.top_k if 0 < wish.top_k < vocab else vocab for wish in wishes]),
        torch.tensor([wish.top_p for wish in wishes], dtype=torch.float64),
        torch.tensor([wish.min_p for wish in wishes], dtype=torch.float64),
        torch.from_numpy(uniforms(seeds, [0] * len(seeds))),
    )
    output: torch.Tensor = TorchSample("float32").run(None, logits, *asked)
    assert SAMPLE.error(output, SAMPLE.reference((vocab,), logits, *asked)) < 1e-6
    return output


WISHES = st.builds(
    Sampling,
    temperature=st.floats(0.1, 3.0),
    top_k=st.integers(0, 60),
    top_p=st.floats(0.05, 1.0),
    min_p=st.sampled_from([0.0, 0.01, 0.3]),
)


@settings(max_examples=40)
@given(st.integers(1, 50), st.integers(0, 999), st.lists(WISHES, min_size=1, max_size=4))
def test_tokens_are_those_of_the_sampler(vocab: int, seed: int, wishes: list[Sampling]) -> None:
    logits = 2.0 * torch.randn(len(wishes), vocab, generator=torch.Generator().manual_seed(seed))
    seeds = [seed + row for row in range(len(wishes))]
    rows = [SampleRow(wish, each, NONE, NONE) for wish, each in zip(wishes, seeds, strict=True)]
    greedy = TorchGreedy("float32")
    theirs = [found.token for found in sample(logits, rows, (), lambda x: greedy.run(None, x))]
    assert drawn(logits, wishes, seeds).tolist() == theirs


def test_tokens_come_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().repeat(4000, 1)
    wish = Sampling(temperature=1.0, top_k=3)
    counts = drawn(logits, [wish] * 4000, list(range(4000))).bincount(minlength=4) / 4000
    assert torch.allclose(counts, torch.tensor([0.0, 2 / 9, 3 / 9, 4 / 9]), atol=0.03)


def test_what_is_barred_is_never_drawn() -> None:
    logits = torch.zeros(500, 6)
    logits[:, [0, 2, 5]] = float("-inf")
    for wish in (Sampling(), Sampling(top_k=5), Sampling(top_p=0.99), Sampling(min_p=0.1)):
        assert set(drawn(logits, [wish] * 500, list(range(500))).tolist()) == {1, 3, 4}
