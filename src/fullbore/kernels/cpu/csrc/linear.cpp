// y = x W^T for a packed matrix, or for several that share x.
#include "linear.h"

#include "api.h"
#include "panel.h"
#include "rows.h"

using namespace fullbore;

namespace {

template <class F, class X>
void linear(const Linear& call) {
  static thread_local Buffer copy;
  static thread_local std::vector<const Operand<F, X>*> pointers;
  Pool& pool = *call.pool;
  const int64_t rows = call.rows;
  const auto* const* a = operands<F>(pool, static_cast<const X*>(call.x), rows, call.in, copy, pointers).data();
  X* const y = static_cast<X*>(call.y);
  const size_t step = blocks(call.in) * F::kBlockBytes;
  const int chunks = static_cast<int>((rows + kChunk - 1) / kChunk);
  pool.run(static_cast<int>(call.panels) * chunks, [&](int task, int worker) {
    const int64_t panel = task / chunks, begin = task % chunks * rows / chunks;
    const int count = static_cast<int>((task % chunks + 1) * rows / chunks - begin);
    float* c = static_cast<float*>(pool.scratch(worker, count * kPanel * sizeof(float)));
    const uint8_t* at = call.packed + panel * step;
    multiply<F>(a + begin, count, at, call.in, c, at + step);
    const Columns to = call.columns[panel];
    for (int row = 0; row < count; ++row) convert(c + row * kPanel, y + (begin + row) * call.out + to.begin, to.count);
  });
}

}  // namespace

FB_API void fb_linear(const Linear* call) {
  with_format(call->format, [&](auto f) {
    using F = decltype(f);
    (call->is_bf16 ? linear<F, bf16> : linear<F, float>)(*call);
  });
}
