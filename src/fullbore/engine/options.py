"""What an engine is told at its start."""

import msgspec


class EngineOptions(msgspec.Struct, frozen=True):
    """All sizes in tokens unless named otherwise; 0 means "choose for this machine and model"."""

    model: str  # a checkpoint folder
    device: str = "auto"  # cpu, cuda (AMD's GPUs too), or auto: a GPU where there is one
    dtype: str = "auto"  # float32, bfloat16, or auto: what this CPU multiplies fastest
    weights: str = "stored"  # a name in model.weights.RECIPES: what they are converted to
    max_model_len: int = 0  # 0: what the model allows and the pages hold
    kv_cache_dtype: str = "auto"  # fp8, bf16, or auto: the compute type
    page_size: int = 16
    kv_gb: float = 0.0  # GiB for the paged cache; 0: for max_num_seqs usual requests (see sizing.py)
    max_num_seqs: int = 64  # requests in one step
    max_num_batched_tokens: int = 512  # tokens in one step, prefill chunks included
    cuda_graph: bool = True  # on a GPU: decodes are launched as graphs
    cuda_graph_max_bs: int = 0  # requests in the largest of them; 0: max_num_seqs, but at most 256
    max_queued: int = 1024  # waiting requests beyond which a new one is refused
    prefix_caching: bool = True
    threads: int = 0  # 0: every core this process may use
    scenario: str = "dialog"  # whose steps kernels are chosen for; a name or a .toml file
    concurrency: int = 0  # requests of it in flight; 0: its own, as far as one step holds it
    by_tokens: bool = False  # kernels may differ by a step's tokens, and a token's bits with them
    random_weights: bool = False  # whatever files the folder has beside config.json
    emulate_rank: str = ""  # "0/8": that one's part alone; "": the whole model
    layout: str = ""  # that it is a rank of
    links: str = ""  # xgmi, nvlink, pcie or a server's name: whose times exchanges take
    routing: str = ""  # natural, balanced or a ratio (see parallel.balance)
    emulate_layers: int = 0  # with weights of their own; 0: all
