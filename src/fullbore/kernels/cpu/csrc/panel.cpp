#include "panel.h"

#include <algorithm>

#include "tile.h"

#if defined(FULLBORE_TILES)
#include "amx.h"
#endif

namespace fullbore {

// Rows up to which codes are decoded in registers, each time they are needed; for more rows once into scratch.
// As many as leave registers for the decoder's tables, and in float32 for weights wider than their pairs.
#if defined(__AVX512VBMI__)
template <class A>
constexpr int kInRegisters = std::is_same_v<A, float> ? 3 : 5;
#else
template <class A>
constexpr int kInRegisters = 0;
#endif

template <class F, class A>
void multiply_in_registers(const A* const* a, int rows, const uint8_t* w, int64_t in, float* c, const uint8_t* next) {
  alignas(64) bf16 scratch[F::kCoded ? kBlock * kPanel : 1];
  const int tiles = (rows + kRows - 1) / kRows;
  for (int64_t k = 0; k < in; k += kBlock, w += F::kBlockBytes) {
    const int pairs = static_cast<int>(std::min<int64_t>(kBlock, in - k) + 1) / 2;
    const bool in_registers = F::kCoded && rows <= kInRegisters<A>;
    if (F::kCoded && !in_registers) decode_block(w, scratch);
    const float factor = F::factor(w);
    const uint8_t* after = k + kBlock < in ? w + F::kBlockBytes : next;  // on its way while this one is multiplied
    for (int t = 0; t < tiles; ++t) {
      const int begin = rows * t / tiles, end = rows * (t + 1) / tiles;
      const A* at[kRows];
      for (int row = begin; row < end; ++row) at[row - begin] = a[row] + k;
      const Into into{c + begin * kPanel, factor, k == 0};
      with_rows(end - begin, [&](auto R) {
#if defined(__AVX512VBMI__)
        if constexpr (F::kCoded && R <= kInRegisters<A>)
          if (in_registers) return tile<R, Fetch{F::kLines, 2}>(at, Codes(w), pairs, after, into);
#endif
        const Pairs weights(F::kCoded ? static_cast<const void*>(scratch) : w);
        if (tiles == 1) return tile<R, Fetch{F::kLines, F::kCache}>(at, weights, pairs, after, into);
        // The next block, a part of each line by each of the first tiles.
        const int lines = (F::kLines + tiles - 1) / tiles;
        const uint8_t* ahead = after + t * lines * kPairs * 64;
        if (t * lines >= F::kLines) return tile<R, Fetch{0, F::kCache}>(at, weights, pairs, ahead, into);
        if (lines == 1) return tile<R, Fetch{1, F::kCache}>(at, weights, pairs, ahead, into);
        if constexpr (F::kLines > 2) tile<R, Fetch{2, F::kCache}>(at, weights, pairs, ahead, into);
      });
    }
  }
}

template <class F, class A>
void multiply(const A* const* a, int rows, const uint8_t* w, int64_t in, float* c, const uint8_t* next) {
#if defined(FULLBORE_TILES)
  if constexpr (std::is_same_v<A, bf16>) return multiply_in_tiles<F>(a, rows, w, in, c, next);
  else
#endif
    multiply_in_registers<F>(a, rows, w, in, c, next);
}

template void multiply<Bf16>(const float* const*, int, const uint8_t*, int64_t, float*, const uint8_t*);
template void multiply<Fp8Block>(const float* const*, int, const uint8_t*, int64_t, float*, const uint8_t*);
#if defined(__AVX512BF16__) || defined(FULLBORE_TILES)
template void multiply<Bf16>(const bf16* const*, int, const uint8_t*, int64_t, float*, const uint8_t*);
template void multiply<Fp8Block>(const bf16* const*, int, const uint8_t*, int64_t, float*, const uint8_t*);
#endif

}  // namespace fullbore
