"""Random weights with which a network of any size computes sane numbers.

Every tensor has its own stream, seeded by the seed and its name: the same whatever the file it is in, and
whichever layers are left out. Values come from tables of normal quantiles, indexed with random bits, since a
table is several times faster than a normal generator and 671 billion values are wanted now and then.
"""

import hashlib
import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray

from fullbore.model.config import ModelConfig
from fullbore.model.specs import BLOCK, TensorSpec
from fullbore.ops.formats import E4M3_MAX, dequantise_fp8_block

_CHUNK_BYTES = 32 << 20
NORM_STD, BIAS_STD = 0.05, 0.02
LOGIT_STD = 2.0  # greedy choices are then clear enough to survive bf16


class RandomWeights:
    """The bytes of each tensor of ``config``'s model in the published format."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        self._e4m3, self._widest = e4m3_quantiles()
        self._normal = normal_quantiles()

    def stored(self, spec: TensorSpec, dtype: str) -> Iterator[bytes]:
        """The tensor's data as ``dtype`` (F8_E4M3, BF16 or F32), in pieces."""
        if spec.kind == "linear":
            pieces = self._fp8(spec)
            return pieces if dtype == "F8_E4M3" else self._dequantised(spec, pieces)
        if spec.kind == "norm":
            return self._normals(spec, 1.0, NORM_STD, dtype)
        if spec.kind == "bias":
            return self._normals(spec, 0.0, BIAS_STD, dtype)
        return self._normals(spec, 0.0, spread_of(self._config, spec), dtype)

    def scale(self, spec: TensorSpec) -> NDArray[np.float32]:
        """[row blocks, column blocks] factors, up to 2x apart, so that one in a wrong place shows."""
        rows, columns = spec.scale_shape
        spread = _Bits(self._seed, spec.scale_name).words(rows * columns) / 65536.0 - 0.5
        factors = spread_of(self._config, spec) * self._widest / E4M3_MAX * np.exp2(spread)
        return factors.astype(np.float32).reshape(rows, columns)

    def _fp8(self, spec: TensorSpec) -> Iterator[bytes]:
        """[rows, columns] e4m3 in bands of whole row blocks; in every block the largest value is 448."""
        rows, columns = spec.shape
        bits = _Bits(self._seed, spec.name)
        band = BLOCK * max(1, _CHUNK_BYTES // (BLOCK * columns))
        for first in range(0, rows, band):
            yield bits.raw(min(band, rows - first) * columns).translate(self._e4m3)

    def _dequantised(self, spec: TensorSpec, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The same matrix in bf16: both formats hold the same model, but for rounding."""
        columns, scale, block = spec.shape[1], torch.from_numpy(self.scale(spec)), 0
        for piece in pieces:
            data = torch.frombuffer(bytearray(piece), dtype=torch.float8_e4m3fn).view(-1, columns)
            blocks = -(-len(data) // BLOCK)
            matrix = dequantise_fp8_block(data, scale[block : block + blocks], torch.bfloat16)
            block += blocks
            yield matrix.view(torch.uint8).numpy().tobytes()

    def _normals(self, spec: TensorSpec, mean: float, std: float, dtype: str) -> Iterator[bytes]:
        values = mean + std * self._normal
        table = values if dtype == "F32" else _bf16(values)
        # Copies of the embedding and the head repeat their bits.
        alias = {"embed_tokens.weight": "model.embed_tokens.weight", "head.weight": "lm_head.weight"}
        name = next((main for end, main in alias.items() if spec.name.endswith("." + end)), spec.name)
        bits = _Bits(self._seed, "model.embed_tokens.weight" if self._is_tied(name) else name)
        for first in range(0, spec.elements, _CHUNK_BYTES):
            yield table[bits.words(min(_CHUNK_BYTES, spec.elements - first))].tobytes()

    def _is_tied(self, name: str) -> bool:
        return name == "lm_head.weight" and self._config.tie_word_embeddings


_ADDED = ("o_proj.weight", "down_proj.weight")


def spread_of(config: ModelConfig, spec: TensorSpec) -> float:
    """Standard deviation that keeps activations near 1: 1 / sqrt(inputs), and less where a layer's result is
    added to the residual stream, as every layer adds to it twice.
    """
    name = spec.name
    head = LOGIT_STD / math.sqrt(config.hidden_size)
    if name.endswith("embed_tokens.weight"):
        return head if config.tie_word_embeddings else 1.0
    if name.endswith(("lm_head.weight", "shared_head.head.weight")):
        return head
    std = 1 / math.sqrt(max(1, spec.shape[1]))
    return std / math.sqrt(2 * config.num_hidden_layers) if name.endswith(_ADDED) else std


class _Bits:
    """A stream of random bits of its own for each name. Only raw output is used: numpy promises that it never
    changes, which it does not for its distributions.
    """

    def __init__(self, seed: int, name: str) -> None:
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        self._source = np.random.SFC64(int.from_bytes(digest[:16], "little"))

    def raw(self, count: int) -> bytes:
        return self._source.random_raw(-(-count // 8)).tobytes()[:count]

    def words(self, count: int) -> NDArray[np.uint16]:
        return np.frombuffer(self.raw(2 * count), np.uint16)


def e4m3_quantiles() -> tuple[bytes, float]:
    """e4m3 bytes of 256 even quantiles of a normal distribution stretched to 448; the outermost quantile."""
    normal = NormalDist()
    quantiles = [normal.inv_cdf((step + 0.5) / 256) for step in range(256)]
    values = torch.tensor(quantiles) * (E4M3_MAX / quantiles[-1])
    return values.to(torch.float8_e4m3fn).view(torch.uint8).numpy().tobytes(), quantiles[-1]


def normal_quantiles() -> NDArray[np.float32]:
    """65536 even quantiles of the standard normal distribution, for 16 random bits each."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((step + 0.5) / 65536) for step in range(65536)], np.float32)


def _bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    return torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
