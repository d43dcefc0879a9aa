// From a stored matrix to panels (matrix.h), in parallel.
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>

#include "api.h"
#include "fp8.h"
#include "matrix.h"
#include "pool.h"

using namespace fullbore;

namespace {

// One row of at most 128 values of type T -> every `step` bytes of `to`, a pair at a time.
template <class T>
void scatter(const T* from, int inputs, uint8_t* to, size_t step) {
  for (int pair = 0; pair < inputs / 2; ++pair) memcpy(to + pair * step, from + 2 * pair, 2 * sizeof(T));
  if (inputs % 2) memcpy(to + inputs / 2 * step, from + inputs - 1, sizeof(T));
}

// One block of at most 64 x 128 values at `from`; `stride` values between rows.
void pack_block(Bf16, const uint8_t* from, int64_t stride, int outputs, int inputs, uint8_t* block) {
  if (outputs < kPanel || inputs < kBlock) memset(block, 0, Bf16::kBlockBytes);
  const auto* values = reinterpret_cast<const bf16*>(from);
  for (int output = 0; output < outputs; ++output)
    scatter(values + output * stride, inputs, block + output * 4, kPanel * 4);
}

void pack_block(Fp8Block, const uint8_t* from, int64_t stride, int outputs, int inputs, uint8_t* block) {
  if (outputs < kPanel || inputs < kBlock) memset(block, 0, Fp8Block::kValues);
  for (int output = 0; output < outputs; ++output)
    scatter(from + output * stride, inputs, block + output / 32 * 64 + place(output % 32, 0), kPanel * 2);
}

template <class F>
void pack(Pool& pool, const uint8_t* source, const float* factors, int64_t out, int64_t in, uint8_t* to,
          int64_t panel_step) {
  constexpr int64_t item = std::is_same_v<F, Bf16> ? 2 : 1;
  pool.run(static_cast<int>(panels(out)), [&](int panel, int) {
    uint8_t* block = to + panel * panel_step;
    const int outputs = static_cast<int>(std::min<int64_t>(kPanel, out - panel * kPanel));
    for (int64_t k = 0; k < in; k += kBlock, block += F::kBlockBytes) {
      const int inputs = static_cast<int>(std::min<int64_t>(kBlock, in - k));
      pack_block(F{}, source + (panel * kPanel * in + k) * item, in, outputs, inputs, block);
      if constexpr (F::kCoded) {
        memset(block + F::kValues, 0, F::kBlockBytes - F::kValues);
        memcpy(block + F::kValues, factors + panel * kPanel / kBlock * blocks(in) + k / kBlock, sizeof(float));
      }
    }
  });
}

}  // namespace

FB_API int64_t fb_panel_bytes(int64_t format, int64_t in) {
  return static_cast<int64_t>(panel_bytes(static_cast<Format>(format), in));
}

// source: [out, in] bfloat16 or e4m3; factors: [ceil(out / 128), ceil(in / 128)] of e4m3; panels go to `to`,
// `panel_step` bytes from one to the next.
FB_API void fb_pack(Pool* pool, int64_t format, const uint8_t* source, const float* factors, int64_t out, int64_t in,
                    uint8_t* to, int64_t panel_step) {
  with_format(static_cast<Format>(format),
              [&](auto f) { pack<decltype(f)>(*pool, source, factors, out, in, to, panel_step); });
}

// Ask for large pages: without them a stream of weights misses the table of page addresses all the time.
FB_API void fb_huge(void* memory, int64_t bytes) {
#if defined(__linux__)
  madvise(memory, bytes, MADV_HUGEPAGE);  // a wish; nothing is lost where it is not granted
#else
  (void)memory, (void)bytes;
#endif
}
