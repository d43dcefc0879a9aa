"""How large the paged cache is, and how long a request may be.

Sizes come from the flags where they are given; what was left to us is chosen for this machine, and whatever
does not fit is refused with the figure that would.
"""

import math
from dataclasses import dataclass

from fullbore.engine.options import EngineOptions
from fullbore.errors import CapacityError, UsageError

GIB = 1 << 30
# Of the memory that is free once the weights are in, what the cache takes unless told otherwise. The rest is
# for activations, the HTTP process and whoever else lives here.
CACHE_SHARE = 0.5
# The same of a GPU, whose memory nobody else wants, after the largest step was tried: the rest is for graphs
# and for what lies too scattered to be used.
GPU_CACHE_SHARE = 0.9
# Tokens that most requests stay below; a model that allows 163840 does not see that length 64 times at once.
USUAL_LENGTH = 8192


@dataclass(frozen=True, slots=True)
class Sizes:
    """``pages`` of the cache; ``max_model_len`` tokens of prompt and answer in one request."""

    pages: int
    max_model_len: int


def size_cache(
    options: EngineOptions, context: int, bytes_per_page: int, free_bytes: int, on_gpu: bool = False
) -> Sizes:
    """Pages and the longest request, for a model that allows ``context`` tokens.

    ``kv_gb`` 0: as many pages as ``max_num_seqs`` requests of ``USUAL_LENGTH`` want, or one of full length
    if that is more, within ``CACHE_SHARE`` of ``free_bytes``; on a GPU all of ``GPU_CACHE_SHARE``, where what
    a step takes is free no longer. ``max_model_len`` 0: what the model allows and the pages hold. Raises
    UsageError for a length beyond the model's, CapacityError for what memory does not hold.
    """
    if options.page_size < 1:
        raise UsageError(f"--page-size {options.page_size} is too small: expected at least 1 token")
    if options.kv_gb < 0 or not math.isfinite(options.kv_gb):
        raise UsageError(f"--kv-gb {options.kv_gb} is no size: expected GiB, or 0 to choose for this machine")
    wanted_length = options.max_model_len or context
    if not 2 <= wanted_length <= context:
        raise UsageError(
            f"--max-model-len {options.max_model_len} is not what the model allows: expected 2 to {context}"
        )
    affordable = free_bytes // bytes_per_page
    free_gb, page_gb = free_bytes / GIB, bytes_per_page / GIB
    one_request = math.ceil(wanted_length / options.page_size)
    if options.kv_gb:
        pages = int(options.kv_gb * GIB / bytes_per_page)
        if pages > affordable:
            raise CapacityError(
                f"--kv-gb {options.kv_gb:g} exceeds the {free_gb:.1f} GiB free after weights (lower it)"
            )
    elif on_gpu:
        pages = int(affordable * GPU_CACHE_SHARE)
    else:
        usual = math.ceil(min(wanted_length, USUAL_LENGTH) / options.page_size)
        pages = min(max(options.max_num_seqs * usual, one_request), int(affordable * CACHE_SHARE))
    if pages < 1 or (options.max_model_len and pages < one_request):
        least = one_request if options.max_model_len else 1
        raise CapacityError(
            f"the cache has {max(pages, 0)} pages, {least} of {options.page_size} tokens are needed: give it "
            f"--kv-gb {least * page_gb:.3g} or more ({free_gb:.1f} GiB are free after weights), "
            f"or lower --{'max-model-len' if options.max_model_len else 'page-size'}"
        )
    return Sizes(pages, min(wanted_length, pages * options.page_size))
