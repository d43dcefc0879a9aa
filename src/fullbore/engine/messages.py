"""What travels between the HTTP process and the engine process: msgpack of the structs below, nothing else.

Decoders are typed, so a malformed message is dropped and counted, never executed. ``PROTOCOL`` changes
whenever a struct does; a peer of another version is refused at the handshake.
"""

import msgspec

PROTOCOL = 4


class Sampling(msgspec.Struct, frozen=True):
    """How the next token is drawn. Ranges are checked by the server before anything is sent."""

    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0  # (0, 1]
    top_k: int = 0  # 0 is off
    min_p: float = 0.0  # [0, 1]
    seed: int | None = None  # same seed, prompt and options give the same tokens, in any batch
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    logprobs: int = -1  # -1 none, 0 the chosen token's, k > 0 the k best as well
    min_tokens: int = 0  # end and stop tokens are barred until then
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """A request to generate from ``prompt`` (token ids, at least one)."""

    request: int  # chosen by the client, unique while it lives
    prompt: list[int]
    max_tokens: int  # already clamped: len(prompt) + max_tokens <= max_model_len
    sampling: Sampling = Sampling()
    salt: str = ""  # requests share prefixes only with requests of the same salt


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Stop a request; its pages are free within one step. Unknown numbers are ignored."""

    request: int


class FlushCache(msgspec.Struct, frozen=True, tag="flush"):
    """Forget every unused prefix."""


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """First message in both directions."""

    protocol: int
    version: str


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """End the engine process; unfinished requests get finish reason ``abort``."""


Command = Submit | Abort | FlushCache | Hello | Shutdown


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True, gc=False):
    token: int
    logprob: float


class Emitted(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request's news of one step.

    ``token`` is -1 when the event carries none (abort, error, refusal). ``finish`` is "" while the request
    goes on, else one of stop, length, abort, error, refused (the queue was full).
    """

    request: int
    token: int
    finish: str = ""
    logprob: float | None = None
    top: list[TokenLogprob] = []
    cached: int = 0  # prompt tokens taken from the prefix tree; set in a request's first event
    error: str = ""  # for finish error: what happened


class Stats(msgspec.Struct, frozen=True, array_like=True):
    """Counters since the engine started, and gauges of now."""

    steps: int = 0
    running: int = 0
    waiting: int = 0
    pages_total: int = 0
    pages_used: int = 0  # owned by requests; what only the prefix tree holds counts as free
    preemptions: int = 0
    prefix_queries: int = 0  # tokens looked up
    prefix_hits: int = 0  # tokens found
    prompt_tokens: int = 0
    generated_tokens: int = 0
    corrupted: int = 0  # requests ended because their logits were not finite
    dropped_messages: int = 0  # bytes on the socket that were no message


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The engine has loaded its model and can take requests."""

    vocab_size: int
    max_model_len: int
    page_size: int
    pages: int
    eos_token_ids: list[int]
    fingerprint: str  # of weights and config
    kv_cache_dtype: str  # float32, bfloat16 or fp8
    kv_bytes_per_token: int  # of the cache, all layers
    weights: str = ""  # the format that most layers multiply by: fp8_block, int8, ...
    conversion: str = ""  # what was lost where they are not as stored, for people
    emulated: str = ""  # where answers mean nothing: what is emulated, and that they do not
    emulates: list[str] = []  # the same in full, for people
    groups: int = 1  # data-parallel ones of the emulated server; each has as much load as this engine
    weight_bytes: int = 0  # as they are packed


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The engine cannot start; ``message`` is for the user."""

    message: str


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """Loading: ``done`` of ``total`` bytes."""

    done: int
    total: int


class Outputs(msgspec.Struct, frozen=True, tag="outputs"):
    """The new tokens of one step, or, with no events, a heart-beat (at least one a second)."""

    events: list[Emitted]
    stats: Stats


Report = Hello | Ready | Failed | Progress | Outputs
