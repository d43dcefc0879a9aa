// What this machine can do at most, measured: the ceilings that a kernel's time is held against.
#include <algorithm>
#include <chrono>

#include "api.h"
#include "buffer.h"
#include "pool.h"
#include "tile.h"

using namespace fullbore;

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

template <class V>
void keep(V& value) {
  asm volatile("" : "+m"(value));  // as if it were used
}

template <int kStreams>
double read(Pool& pool, const uint8_t* memory, int64_t bytes) {
  const int64_t stream = bytes / pool.threads() / kStreams / 256 * 256;
  const auto begin = Clock::now();
  pool.run(pool.threads(), [&](int task, int) {
    const uint8_t* part = memory + task * stream * kStreams;
    vu sums[kStreams] = {};
    for (int64_t at = 0; at < stream; at += 256)
      for (int i = 0; i < kStreams; ++i)
        for (int64_t line = at; line < at + 256; line += sizeof(vu)) {
          vu value;
          memcpy(&value, part + i * stream + line, sizeof value);
          sums[i] ^= value;
        }
    keep(sums);
  });
  return static_cast<double>(stream * kStreams * pool.threads()) / seconds_since(begin) / 1e9;
}

// 24 sums that never leave the registers; operations of one step.
template <class Step>
double rate(Pool& pool, double per_step, Step step) {
  constexpr int kSteps = 2'000'000;
  const auto begin = Clock::now();
  pool.run(pool.threads(), [&](int, int) { step(kSteps); });
  return per_step * kSteps * pool.threads() / seconds_since(begin) / 1e9;
}

}  // namespace

// GB/s of all threads reading `memory` (many times the last cache) once, each its own part, as one stream or as four:
// which is faster depends on the machine.
FB_API double fb_read_probe(Pool* pool, const uint8_t* memory, int64_t bytes) {
  return std::max(read<1>(*pool, memory, bytes), read<4>(*pool, memory, bytes));
}

// GFLOP/s (a multiply-add counts two) of all threads in registers: bfloat16 dot products, or float32. 0 where this
// instruction set has no such instruction.
FB_API double fb_peak_probe(Pool* pool, int64_t is_bf16) {
  constexpr int kSums = W == 16 ? 24 : 12;
  if (!is_bf16) {
    return rate(*pool, kSums * W * 2, [](int steps) {
      vf sums[kSums] = {}, x = splat(1.0f);
      keep(x);
      for (int i = 0; i < steps; ++i) unrolled<kSums>([&](auto s) { sums[s] = x * x + sums[s]; });
      keep(sums);
    });
  }
#if defined(__AVX512BF16__)
  return rate(*pool, kSums * W * 4, [](int steps) {
    __m512 sums[kSums] = {};
    __m512i bits = _mm512_set1_epi32(0x3f803f80);
    keep(bits);
    const auto x = reinterpret_cast<__m512bh>(bits);
    for (int i = 0; i < steps; ++i) unrolled<kSums>([&](auto s) { sums[s] = _mm512_dpbf16_ps(sums[s], x, x); });
    keep(sums);
  });
#else
  return 0;
#endif
}
