"""Whether layers that share weights take as long as layers with their own:
``python -m benchmarks.shared_layers [--config bench-1b5] [--layers 0 8 4]``.

Decode steps of the same network, with the weights of all its layers (0) and of fewer, in turns.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

# Before torch is imported: waiting threads must sleep, as in the engine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from fullbore.hardware.limits import usable_cores
from fullbore.model.batch import Batch
from fullbore.model.deepseek import DeepseekV3
from fullbore.model.load import load_model
from fullbore.model.make_checkpoint import config_fields
from fullbore.parallel.rank import Role

PAGE, PAGES, CONTEXT, WARM = 16, 4, 21, 2


def decode(rows: int) -> Batch:
    """One token of each of ``rows`` requests."""
    pages = torch.arange(rows * PAGES, dtype=torch.int32).view(rows, PAGES)
    last = torch.full((rows,), CONTEXT - 1)
    slots = pages[:, (CONTEXT - 1) // PAGE].long() * PAGE + (CONTEXT - 1) % PAGE
    contexts = torch.full((rows,), CONTEXT, dtype=torch.int32)
    return Batch(torch.arange(rows) + 5, last, slots, rows, pages, contexts, (), torch.arange(rows))


def seconds(model: DeepseekV3, batch: Batch, cache: tuple[torch.Tensor, ...]) -> float:
    begin = time.perf_counter()
    model.forward(batch, cache)
    return time.perf_counter() - begin


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(usable_cores())
    batch, models = decode(arguments.rows), {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config_fields(arguments.config)))
        for layers in arguments.layers:
            begin = time.perf_counter()
            model = load_model(Path(folder), role=Role(distinct_layers=layers), random=True)
            took = time.perf_counter() - begin
            models[layers] = model, model.new_cache(arguments.rows * PAGES, PAGE)
            print(f"{layers or 'all':>4} layers: {model.bytes / 1e9:.2f} GB made and packed in {took:.1f} s")
    times: dict[int, list[float]] = {layers: [] for layers in models}
    for _ in range(WARM + arguments.steps):
        for layers, (model, cache) in models.items():
            times[layers].append(1e3 * seconds(model, batch, cache))
    for layers, found in times.items():
        low, median, high = statistics.quantiles(found[WARM:], n=4)
        print(f"{layers or 'all':>4} layers: a step takes {median:.1f} ms ({low:.1f} to {high:.1f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="bench-1b5")
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 8, 4])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=15)
    main(parser.parse_args())
