// Quantised rows x one panel of whole numbers.
#include "panel.h"
#include "tile_int.h"

namespace fullbore {

#if defined(__AVX512VNNI__)

template <class F, std::same_as<Quantised> A>
void multiply(const A* const* a, int rows, const uint8_t* w, int64_t in, float* c, const uint8_t* next) {
  constexpr int kLines = 2 * F::kLines;  // of a quad of inputs
  const int tiles = (rows + kRows - 1) / kRows;
  for (int64_t k = 0; k < in; k += kBlock, w += F::kBlockBytes) {
    const uint8_t* after = k + kBlock < in ? w + F::kBlockBytes : next;  // on its way while this one is multiplied
    // Bytes are multiplied faster than memory brings them; a whole block ahead, they would be asked for too early.
    const uint8_t* soon = F::kBits == 8 ? w + kBlock * kPanel / 2 : after;
    for (int t = 0; t < tiles; ++t) {
      const int begin = rows * t / tiles, end = rows * (t + 1) / tiles;
      const Quantised* at[kRows];
      for (int row = begin; row < end; ++row) at[row - begin] = a[row] + k / kBlock;
      with_rows(end - begin, [&](auto R) {
        float* const to = c + begin * kPanel;
        if (tiles == 1) return tile<R, F, Fetch{kLines, 2}>(at, w, soon, to, k == 0);
        // The next block, a part of it by each of the first tiles.
        const int lines = (kLines + tiles - 1) / tiles;
        const uint8_t* ahead = after + t * lines_ahead<F>(lines) * 64;
        if (t * lines >= kLines) return tile<R, F, Fetch{0, F::kCache}>(at, w, ahead, to, k == 0);
        if (lines == 1) return tile<R, F, Fetch{1, F::kCache}>(at, w, ahead, to, k == 0);
        if constexpr (kLines > 2) tile<R, F, Fetch{2, F::kCache}>(at, w, ahead, to, k == 0);
      });
    }
  }
}

template void multiply<Int8>(const Quantised* const*, int, const uint8_t*, int64_t, float*, const uint8_t*);
template void multiply<Int4G32>(const Quantised* const*, int, const uint8_t*, int64_t, float*, const uint8_t*);
template void multiply<Int4G128>(const Quantised* const*, int, const uint8_t*, int64_t, float*, const uint8_t*);

#endif

}  // namespace fullbore
