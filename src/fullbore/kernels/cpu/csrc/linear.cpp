// y = x W^T for a packed matrix.
#include "api.h"
#include "panel.h"
#include "rows.h"

using namespace fullbore;

namespace {

template <class F, class X>
void linear(Pool& pool, const uint8_t* w, int64_t out, int64_t in, const X* x, int64_t rows, X* y) {
  static thread_local Buffer copy;
  static thread_local std::vector<const Operand<F, X>*> pointers;
  const auto* const* a = operands<F>(pool, x, rows, in, copy, pointers).data();
  const size_t step = blocks(in) * F::kBlockBytes;
  const int chunks = static_cast<int>((rows + kChunk - 1) / kChunk);
  pool.run(static_cast<int>(panels(out)) * chunks, [&](int task, int worker) {
    const int64_t panel = task / chunks, begin = task % chunks * rows / chunks;
    const int count = static_cast<int>((task % chunks + 1) * rows / chunks - begin);
    float* c = static_cast<float*>(pool.scratch(worker, count * kPanel * sizeof(float)));
    const uint8_t* at = w + panel * step;
    multiply<F>(a + begin, count, at, in, c, at + step);
    const int64_t width = std::min<int64_t>(kPanel, out - panel * kPanel);
    for (int row = 0; row < count; ++row)
      convert(c + row * kPanel, y + (begin + row) * out + panel * kPanel, width);
  });
}

}  // namespace

// x: [rows, in] -> y: [rows, out], both bfloat16 or both float32.
FB_API void fb_linear(Pool* pool, const uint8_t* packed, int64_t format, int64_t out, int64_t in, int64_t is_bf16,
                      const void* x, int64_t rows, void* y) {
  with_format(static_cast<Format>(format), [&](auto f) {
    using F = decltype(f);
    if (is_bf16)
      linear<F>(*pool, packed, out, in, static_cast<const bf16*>(x), rows, static_cast<bf16*>(y));
    else
      linear<F>(*pool, packed, out, in, static_cast<const float*>(x), rows, static_cast<float*>(y));
  });
}
