#include "panel.h"

#include <algorithm>

#include "integers.h"
#include "tile.h"

#if defined(FULLBORE_TILES)
#include "amx.h"
#endif

namespace fullbore {

// Rows up to which codes are decoded in registers, by each tile again; for more rows once into scratch. Beside
// bfloat16 dot products that is nearly free, so that only many tiles pay for scratch; in float32, whose weights are
// wider than their pairs, as many rows as leave registers for the decoder's tables.
template <class F, class A>
constexpr int kInRegisters = 0;
#if defined(__AVX512VBMI__)
template <class A>
constexpr int kInRegisters<Fp8Block, A> = std::is_same_v<A, float> ? 3 : 4 * kRows;
#endif

template <class F, class A>
void multiply_in_registers(const A* const* a, int rows, const uint8_t* w, int64_t in, float* c, const uint8_t* next) {
  using Source = std::conditional_t<std::is_same_v<F, Fp32>, Floats, Pairs>;
  alignas(64) bf16 scratch[F::kCoded ? kBlock * kPanel : 1];
  const int tiles = (rows + kRows - 1) / kRows;
  const bool in_registers = rows <= kInRegisters<F, A>;
  for (int64_t k = 0; k < in; k += F::kGroup) {
    const uint8_t* const block = w + k / kBlock * F::kBlockBytes;
    const int group = static_cast<int>(k % kBlock) / F::kGroup, before = group * F::kGroup / 2;  // pairs of the block
    const int pairs = static_cast<int>(std::min<int64_t>(F::kGroup, in - k) + 1) / 2;
    if constexpr (F::kCoded)
      if (group == 0 && !in_registers) decode_block(F{}, block, scratch);
    const auto factor = F::factor(block, group);
    // On its way while this one is multiplied.
    const uint8_t* after = k - k % kBlock + kBlock < in ? block + F::kBlockBytes : next;
    for (int t = 0; t < tiles; ++t) {
      const int begin = rows * t / tiles, end = rows * (t + 1) / tiles;
      const A* at[kRows];
      for (int row = begin; row < end; ++row) at[row - begin] = a[row] + k;
      const Into<decltype(F::factor(block, 0))> into{c + begin * kPanel, factor, k == 0};
      with_rows(end - begin, [&](auto R) {
        const auto run = [&]<int kCache>(const auto& weights, std::integral_constant<int, kCache>) {
          const uint8_t* const soon = after + before * F::kLines * 64;
          if (tiles == 1) return tile<R, Fetch{F::kLines, kCache}>(at, weights, pairs, soon, into);
          // The next block, a part of each line by each of the first tiles.
          const int lines = (F::kLines + tiles - 1) / tiles;
          const uint8_t* ahead = after + (t * kPairs + before) * lines * 64;
          if (t * lines >= F::kLines) return tile<R, Fetch{0, kCache}>(at, weights, pairs, ahead, into);
          if (lines == 1) return tile<R, Fetch{1, kCache}>(at, weights, pairs, ahead, into);
          if constexpr (F::kLines > 4)
            if (lines > 2) return tile<R, Fetch{4, kCache}>(at, weights, pairs, ahead, into);
          if constexpr (F::kLines > 2) tile<R, Fetch{2, kCache}>(at, weights, pairs, ahead, into);
        };
#if defined(__AVX512VBMI__)
        if constexpr (R <= kInRegisters<F, A>)
          if (in_registers) return run(Codes(block), std::integral_constant<int, 2>{});
#endif
        const void* const whole = F::kCoded ? static_cast<const void*>(scratch) : block;
        run(Source(static_cast<const uint32_t*>(whole) + before * kPanel), std::integral_constant<int, F::kCache>{});
      });
    }
  }
}

template <class F, class A>
  requires std::is_arithmetic_v<A>
void multiply(const A* const* a, int rows, const uint8_t* w, int64_t in, float* c, const uint8_t* next) {
#if defined(FULLBORE_TILES)
  if constexpr (std::is_same_v<A, bf16>) return multiply_in_tiles<F>(a, rows, w, in, c, next);
  else
#endif
    multiply_in_registers<F>(a, rows, w, in, c, next);
}

template void multiply<Bf16>(const float* const*, int, const uint8_t*, int64_t, float*, const uint8_t*);
template void multiply<Fp32>(const float* const*, int, const uint8_t*, int64_t, float*, const uint8_t*);
template void multiply<Fp8Block>(const float* const*, int, const uint8_t*, int64_t, float*, const uint8_t*);
template void multiply<Int8>(const float* const*, int, const uint8_t*, int64_t, float*, const uint8_t*);
template void multiply<Int4G32>(const float* const*, int, const uint8_t*, int64_t, float*, const uint8_t*);
template void multiply<Int4G128>(const float* const*, int, const uint8_t*, int64_t, float*, const uint8_t*);
#if defined(__AVX512BF16__) || defined(FULLBORE_TILES)
template void multiply<Bf16>(const bf16* const*, int, const uint8_t*, int64_t, float*, const uint8_t*);
template void multiply<Fp8Block>(const bf16* const*, int, const uint8_t*, int64_t, float*, const uint8_t*);
#endif

}  // namespace fullbore
