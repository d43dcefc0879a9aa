"""From a loaded model to a runner: what memory decides, in the order in which memory is taken."""

import time

from fullbore.engine.graphs import buckets, largest
from fullbore.engine.memory import CACHING, CAPTURING, REHEARSING, Accounted, Holdings
from fullbore.engine.options import EngineOptions
from fullbore.engine.rehearsal import rehearse
from fullbore.engine.runner import Runner
from fullbore.engine.sizing import Sizes, size_cache
from fullbore.engine.stream import stream_of
from fullbore.hardware.device import Device
from fullbore.model.deepseek import DeepseekV3


class Startup:
    """Takes memory on ``device`` step by step and the time that each took; ``told`` says it to people."""

    def __init__(self, options: EngineOptions, device: Device) -> None:
        self.holdings = Holdings(device, options)
        self._options, self._device = options, device
        self._on_gpu = device.place != "cpu"
        self._stream = stream_of(device)
        self._last, self._laps = time.monotonic(), list[str]()

    @property
    def told(self) -> str:
        """What took how long, "" on a CPU, where none of it is worth a line."""
        free = self._device.free_bytes() / (1 << 30)
        return f"{', '.join(self._laps)}; {free:.2f} GiB are left" if self._on_gpu else ""

    def note_weights(self, model: DeepseekV3) -> None:
        """The model is loaded."""
        self.holdings.weights = model.bytes
        self._lap(f"{model.bytes / (1 << 30):.2f} GiB of weights")

    def size(self, model: DeepseekV3, token_bytes: int) -> Sizes:
        """Of the cache, of which a token takes ``token_bytes``. A GPU tries its largest steps before that."""
        options, context = self._options, model.config.max_position_embeddings
        if self._on_gpu:
            fits = self._device.free_bytes() // token_bytes
            longest = max(1, min(options.max_model_len or context, context, fits))
            with self.holdings.during(REHEARSING):
                rehearse(model, self._stream, options, longest)
            self._lap("the largest steps, compiled and tried,")
        page_bytes = options.page_size * token_bytes
        sizes = size_cache(options, context, page_bytes, self._device.free_bytes(), self._on_gpu)
        self.holdings.cache = sizes.pages * page_bytes
        return sizes

    def runner(self, model: DeepseekV3, sizes: Sizes) -> Runner:
        """With its cache and, on a GPU, its graphs."""
        options, on_gpu = self._options, self._on_gpu
        graph_rows = buckets(largest(options)) if on_gpu and options.cuda_graph else ()
        stream = Accounted(self._stream, self.holdings) if on_gpu else self._stream
        ends, page_size = model.config.eos_token_ids, options.page_size
        width = -(-sizes.max_model_len // page_size)
        with self.holdings.during(CACHING):
            runner = Runner(model, sizes.pages, page_size, ends, stream, graph_rows, width)
        if graph_rows:
            free = self._device.free_bytes()
            with self.holdings.during(CAPTURING):
                runner.capture()
            self.holdings.graphs = free - self._device.free_bytes()
            size = f"{self.holdings.graphs / (1 << 30):.2f} GiB"
            self._lap(f"{len(graph_rows)} graphs of up to {graph_rows[-1]} rows ({size})")
        return runner

    def _lap(self, name: str) -> None:
        now = time.monotonic()
        self._laps.append(f"{name} in {now - self._last:.1f} s")
        self._last = now
