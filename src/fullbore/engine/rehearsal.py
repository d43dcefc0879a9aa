"""The largest steps that can come, before there is a cache.

A GPU's allocator keeps what they took, so what is free after them is what the cache and graphs may have.
Kernels are compiled on the way.
"""

from fullbore.engine.messages import Sampling
from fullbore.engine.options import EngineOptions
from fullbore.engine.runner import Runner
from fullbore.engine.step import Row, Started, Step
from fullbore.engine.stream import Stream
from fullbore.model.deepseek import DeepseekV3

_CUT = Sampling(temperature=1.0, top_p=0.95, seed=0, logprobs=0)
_WHOLE = Sampling(temperature=1.0, seed=0)


def rehearse(model: DeepseekV3, stream: Stream, options: EngineOptions, longest: int) -> None:
    """A chunk of a prompt that ends at ``longest`` tokens, and a token drawn for every request of a step.

    What they compute means nothing: all tokens lie in one page, which holds what memory held.
    """
    runner = Runner(model, 1, options.page_size, (), stream)
    chunk = min(longest, options.max_num_batched_tokens)
    table = (0,) * -(-longest // options.page_size)
    prompt = Started(0, (0,) * longest, _CUT)
    runner.launch(Step(1, (Row(0, longest - chunk, chunk, table, True),), (prompt,), (0,))).sampled()
    for number, wish in ((2, _WHOLE), (3, _CUT)):
        requests = range(options.max_num_seqs)
        started = tuple(Started(request, (0,), wish) for request in requests)
        rows = tuple(Row(request, 0, 1, table, True) for request in requests)
        runner.launch(Step(number, rows, started, tuple(requests))).sampled()
