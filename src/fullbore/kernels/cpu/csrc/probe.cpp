// What this machine can do at most, measured: the ceilings that a kernel's time is held against.
#include <algorithm>
#include <chrono>

#include "api.h"
#include "buffer.h"
#include "pool.h"
#include "tile.h"
#include "tile_int.h"

#if defined(FULLBORE_TILES)
#include "amx.h"
#endif

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

// Sums that never leave the registers; `per_step`: operations.
template <int kSteps = 2'000'000, class Step>
double rate(Pool& pool, double per_step, Step step) {
  const auto begin = Clock::now();
  pool.run(pool.threads(), [&](int, int) { step(kSteps); });
  return per_step * kSteps * pool.threads() / seconds_since(begin) / 1e9;
}

constexpr int kSums = W == 16 ? 24 : 12;

double float32_peak(Pool& pool) {
  return rate(pool, kSums * W * 2, [](int steps) {
    vf sums[kSums] = {}, x = splat(1.0f);
    keep(x);
    for (int i = 0; i < steps; ++i) unrolled<kSums>([&](auto s) { sums[s] = x * x + sums[s]; });
    keep(sums);
  });
}

double bfloat16_peak([[maybe_unused]] Pool& pool) {
#if defined(FULLBORE_TILES)
  return rate<100'000>(pool, 4 * 2 * kTileRows * 16 * 2 * kTilePairs, [](int steps) {
    const Tiles configured;  // and zero
    for (int i = 0; i < steps; ++i) {
      _tile_dpbf16ps(0, 4, 5);
      _tile_dpbf16ps(1, 4, 5);
      _tile_dpbf16ps(2, 4, 5);
      _tile_dpbf16ps(3, 4, 5);
    }
  });
#elif defined(__AVX512BF16__)
  return rate(pool, kSums * W * 4, [](int steps) {
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

double int8_peak([[maybe_unused]] Pool& pool) {
#if defined(FULLBORE_TILES) && !defined(FULLBORE_EMULATED_TILES)
  return rate<100'000>(pool, 4 * 2 * kTileRows * 16 * 4 * kTilePairs, [](int steps) {
    const Tiles configured;
    for (int i = 0; i < steps; ++i) {
      _tile_dpbusd(0, 4, 5);
      _tile_dpbusd(1, 4, 5);
      _tile_dpbusd(2, 4, 5);
      _tile_dpbusd(3, 4, 5);
    }
  });
#elif defined(__AVX512VNNI__)
  return rate(pool, kSums * W * 8, [](int steps) {
    __m512i sums[kSums] = {}, x = _mm512_set1_epi8(1);
    keep(x);
    for (int i = 0; i < steps; ++i) unrolled<kSums>([&](auto s) INLINE { add_products(sums[s], x, x); });
    // Each by itself: where gcc sees the array used as one it writes all of it to memory at every step.
    unrolled<kSums>([&](auto s) INLINE { asm volatile("" : "+v"(sums[s])); });
  });
#else
  return 0;
#endif
}

}  // namespace

// GB/s of all threads reading `memory` (many times the last cache) once, each its own part, as one stream or as four:
// which is faster depends on the machine.
FB_API double fb_read_probe(Pool* pool, const uint8_t* memory, int64_t bytes) {
  return std::max(read<1>(*pool, memory, bytes), read<4>(*pool, memory, bytes));
}

// GFLOP/s (a multiply-add counts two) of all threads in registers: `arithmetic` 0 float32, 1 dot products or tiles of
// bfloat16, 2 those of bytes. 0 where this instruction set has no such instruction.
FB_API double fb_peak_probe(Pool* pool, int64_t arithmetic) {
  return (arithmetic == 0 ? float32_peak : arithmetic == 1 ? bfloat16_peak : int8_peak)(*pool);
}
