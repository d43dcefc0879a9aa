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

// Stored values and factors, as the formats say.
struct Stored {
  const uint8_t* values;
  const void* factors;
  int64_t out, in;
};

// What of it goes into one block of a panel: at most 64 outputs and 128 inputs.
struct Part {
  int64_t output, input;
  int outputs, inputs;

  bool whole() const { return outputs == kPanel && inputs == kBlock; }
  const uint8_t* row(const Stored& from, int row, size_t value_bytes) const {
    return from.values + ((output + row) * from.in + input) * value_bytes;
  }
};

// One row of at most 128 values of type T -> every `step` bytes of `to`, a pair at a time.
template <class T>
void scatter(const uint8_t* from, int inputs, uint8_t* to, size_t step) {
  for (int pair = 0; pair < inputs / 2; ++pair) memcpy(to + pair * step, from + 2 * pair * sizeof(T), 2 * sizeof(T));
  if (inputs % 2) memcpy(to + inputs / 2 * step, from + (inputs - 1) * sizeof(T), sizeof(T));
}

void pack_block(Bf16, const Stored& from, const Part& part, uint8_t* block) {
  if (!part.whole()) memset(block, 0, Bf16::kBlockBytes);
  for (int output = 0; output < part.outputs; ++output)
    scatter<bf16>(part.row(from, output, sizeof(bf16)), part.inputs, block + output * 4, kPanel * 4);
}

void pack_block(Fp8Block, const Stored& from, const Part& part, uint8_t* block) {
  if (!part.whole()) memset(block, 0, Fp8Block::kValues);
  for (int output = 0; output < part.outputs; ++output)
    scatter<uint8_t>(part.row(from, output, 1), part.inputs, block + output / 32 * 64 + place(output % 32, 0),
                     kPanel * 2);
  memset(block + Fp8Block::kValues, 0, Fp8Block::kBlockBytes - Fp8Block::kValues);
  const auto* factors = static_cast<const float*>(from.factors) + part.output / kBlock * blocks(from.in);
  memcpy(block + Fp8Block::kValues, factors + part.input / kBlock, sizeof(float));
}

template <int kBits, int kGroup>
void pack_block(Integers<kBits, kGroup> f, const Stored& from, const Part& part, uint8_t* block) {
  using F = decltype(f);
  constexpr int kQuad = kPanel * kBits / 2, kMask = (1 << kBits) - 1;  // bytes of four inputs
  memset(block, F::kZero * (kBits == 8 ? 1 : 0x11), F::kValues);
  memset(block + F::kValues, 0, F::kBlockBytes - F::kValues);
  const int64_t groups = (from.in + kGroup - 1) / kGroup, first = part.input / kGroup;
  for (int output = 0; output < part.outputs; ++output) {
    const int word = kBits == 8 ? output : output / 32 * 16 + output % 16;
    const int shift = kBits == 8 ? 0 : output % 32 / 16 * 4;
    const uint8_t* numbers = part.row(from, output, 1);
    for (int input = 0; input < part.inputs; ++input) {
      uint8_t& to = block[input / 4 * kQuad + word * 4 + input % 4];
      to = static_cast<uint8_t>((to & ~(kMask << shift)) | ((numbers[input] + F::kZero) & kMask) << shift);
    }
    const auto* factors = static_cast<const bf16*>(from.factors) + (part.output + output) * groups + first;
    for (int group = 0; group * kGroup < part.inputs; ++group)
      memcpy(block + F::kValues + (group * kPanel + output) * sizeof(bf16), factors + group, sizeof(bf16));
  }
}

template <class F>
void pack(Pool& pool, const Stored& from, uint8_t* to, int64_t panel_step) {
  pool.run(static_cast<int>(panels(from.out)), [&](int panel, int) {
    uint8_t* block = to + panel * panel_step;
    const int64_t output = panel * kPanel;
    const int outputs = static_cast<int>(std::min<int64_t>(kPanel, from.out - output));
    for (int64_t k = 0; k < from.in; k += kBlock, block += F::kBlockBytes)
      pack_block(F{}, from, {output, k, outputs, static_cast<int>(std::min<int64_t>(kBlock, from.in - k))}, block);
  });
}

}  // namespace

FB_API int64_t fb_panel_bytes(int64_t format, int64_t in) {
  return static_cast<int64_t>(panel_bytes(static_cast<Format>(format), in));
}

// source: [out, in] bfloat16, e4m3 or int8; factors: [ceil(out / 128), ceil(in / 128)] float32 of e4m3,
// [out, ceil(in / group)] bfloat16 of whole numbers; panels go to `to`, `panel_step` bytes from one to the next.
FB_API void fb_pack(Pool* pool, int64_t format, const uint8_t* source, const void* factors, int64_t out, int64_t in,
                    uint8_t* to, int64_t panel_step) {
  with_format(static_cast<Format>(format),
              [&](auto f) { pack<decltype(f)>(*pool, {source, factors, out, in}, to, panel_step); });
}

// Ask for large pages: without them a stream of weights misses the table of page addresses all the time.
FB_API void fb_huge(void* memory, int64_t bytes) {
#if defined(__linux__)
  madvise(memory, bytes, MADV_HUGEPAGE);  // a wish; nothing is lost where it is not granted
#else
  (void)memory, (void)bytes;
#endif
}
