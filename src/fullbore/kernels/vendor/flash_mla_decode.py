"""FlashMLA: decode attention over pages of 64 tokens, on Hopper, as of 2026-09 (README.md and
flash_mla/flash_mla_interface.py there)."""

from torch import Tensor

from fullbore.kernels.vendor.absorbed import LATENT, AbsorbedDecode
from fullbore.kernels.vendor.kernel import library

_flash_mla = library("flash_mla", "FlashMLA", "build github.com/deepseek-ai/FlashMLA by pip install .")
PAGE = 64


class FlashMlaDecode(AbsorbedDecode):
    name = "flash_mla"
    architectures = ("sm_90",)

    def attend(self, q: Tensor, cache: Tensor, table: Tensor, contexts: Tensor, scale: float) -> Tensor:
        if cache.shape[1] != PAGE:
            raise ValueError(
                f"FlashMLA takes pages of {PAGE} tokens, not {cache.shape[1]} (use --page-size {PAGE})"
            )
        # The plan depends on contexts, which are the device's; it is made there, anew in each call.
        plan, splits = _flash_mla.get_mla_metadata(contexts, q.shape[1], 1)
        outputs, _ = _flash_mla.flash_mla_with_kvcache(
            q[:, None], cache[:, :, None], table, contexts, LATENT, plan, splits, softmax_scale=scale
        )
        result: Tensor = outputs[:, 0]
        return result
