"""Every list, string and number that a client may send has a maximum. ``GET /server_info`` shows them."""

import msgspec


class Limits(msgspec.Struct, frozen=True):
    body_bytes: int = 32 * 2**20
    header_bytes: int = 64 * 2**10
    headers: int = 256

    messages: int = 4096
    content_parts: int = 1024  # of one message
    prompts: int = 1024  # of one completions request
    n: int = 128
    sequences: int = 1024  # prompts x n
    stop_strings: int = 4
    stop_chars: int = 1024
    stop_token_ids: int = 256
    logit_bias: int = 1024
    top_logprobs: int = 20
    salt_chars: int = 256
    template_kwargs: int = 32
    template_kwarg_chars: int = 4096  # of one that is a string
    name_chars: int = 256  # model names, user names, request ids
    ignored_fields: int = 16  # named in the header that tells of them

    header_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    keep_alive_s: int = 30
    send_timeout_s: float = 30.0  # a reader that takes nothing for so long has its request aborted
    unsent_events: int = 4096  # tokens generated ahead of what the reader has taken
    request_timeout_s: float = 3600.0  # 0: none
    stalled_s: float = 60.0  # without a step while there is work, /health says so
