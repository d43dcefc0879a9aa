// From stored matrices to panels (matrix.h), in parallel: reading a model should take as long as reading its files.
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <vector>

#include "api.h"
#include "fp8.h"
#include "matrix.h"
#include "pack.h"
#include "pool.h"

using namespace fullbore;

namespace {

// What stays together: two inputs of one output, of which a block has 64; in float32 one.
template <class F>
using UnitOf = std::conditional_t<F::kCoded, uint16_t, uint32_t>;
template <class F>
constexpr int kUnits = std::is_same_v<F, Fp32> ? kBlock : kPairs;
template <class F>
constexpr int kLanes = 16 / sizeof(UnitOf<F>);  // in the 16 bytes that every machine moves at once

template <class F>
constexpr size_t kRowBytes = kUnits<F> * sizeof(UnitOf<F>);  // of an output in a block as stored

#define FULLBORE_UNROLL _Pragma("GCC unroll 8")

template <class Unit>
using Lanes __attribute__((vector_size(16))) = Unit;

// kOrder<F>[lane]: which output of a panel lies there in each row of units.
template <class F>
constexpr auto kOrder = [] {
  std::array<int, kPanel> order{};
  for (int output = 0; output < kPanel; ++output)
    order[F::kCoded ? output / 32 * 32 + place(output % 32, 0) / 2 : output] = output;
  return order;
}();

// The lower (upper) halves of two vectors, interleaved.
template <bool kUpper, class V>
V interleaved(V a, V b) {
  constexpr int n = sizeof(V) / sizeof(a[0]), from = kUpper ? n / 2 : 0;
#if defined(__clang__)
  if constexpr (n == 4) return __builtin_shufflevector(a, b, from, from + 4, from + 1, from + 5);
  else
    return __builtin_shufflevector(a, b, from, from + 8, from + 1, from + 9, from + 2, from + 10, from + 3, from + 11);
#else
  V mask;
  for (int i = 0; i < n; ++i) mask[i] = from + i / 2 + i % 2 * n;
  return __builtin_shuffle(a, b, mask);
#endif
}

// rows[i]: 128 values of output i -> units of inputs at `block`, those of all 64 outputs together.
template <class F>
  requires(!F::kWhole)
void pack_block(const uint8_t* const* rows, uint8_t* block) {
  using Unit = UnitOf<F>;
  using V = Lanes<Unit>;
  constexpr int n = kLanes<F>;
  for (int lane = 0; lane < kPanel; lane += n) {
    const uint8_t* row[n];
    for (int i = 0; i < n; ++i) {
      row[i] = rows[kOrder<F>[lane + i]];
      // Rows lie too far apart for the machine to guess what is next: the same rows of the next block.
      for (size_t at = 0; at < kRowBytes<F>; at += 64) __builtin_prefetch(row[i] + kRowBytes<F> + at);
    }
    for (int unit = 0; unit < kUnits<F>; unit += n) {
      V square[n], next[n];
      FULLBORE_UNROLL for (int i = 0; i < n; ++i) memcpy(&square[i], row[i] + unit * sizeof(Unit), sizeof(V));
      // Each round brings together what is half as far apart: after log2 n of them rows are columns.
      FULLBORE_UNROLL for (int round = 1; round < n; round *= 2) {
        FULLBORE_UNROLL for (int i = 0; i < n; ++i) next[i] = square[i];
        FULLBORE_UNROLL for (int i = 0; i < n / 2; ++i) {
          square[2 * i] = interleaved<false>(next[i], next[i + n / 2]);
          square[2 * i + 1] = interleaved<true>(next[i], next[i + n / 2]);
        }
      }
      FULLBORE_UNROLL for (int i = 0; i < n; ++i)
        memcpy(block + ((unit + i) * kPanel + lane) * sizeof(Unit), &square[i], sizeof(V));
    }
  }
}

// The same of whole numbers: four inputs of an output together, two numbers to a byte where they have 4 bits.
template <class F>
  requires F::kWhole
void pack_block(const uint8_t* const* rows, uint8_t* block) {
  constexpr uint32_t kZeros = F::kZero * 0x01010101u, kMask = ((1u << F::kBits) - 1) * 0x01010101u;
  const auto numbers = [&](int output, int quad) {
    uint32_t four;
    memcpy(&four, rows[output] + 4 * quad, sizeof four);
    return (four & kMask) ^ kZeros;  // adds kZero to each, which flips its sign bit
  };
  constexpr int kWords = kPanel * F::kBits / 8;  // of a quad
  for (int quad = 0; quad < kBlock / 4; ++quad)
    for (int i = 0; i < kWords; ++i) {
      const int output = F::kBits == 8 ? i : i / 16 * 32 + i % 16;
      uint32_t word = numbers(output, quad);
      if constexpr (F::kBits == 4) word |= numbers(output + 16, quad) << 4;
      memcpy(block + (quad * kWords + i) * sizeof word, &word, sizeof word);
    }
}

// Past the caches: they would fetch what is about to be overwritten, and nobody reads it soon.
inline void stream(const uint8_t* from, uint8_t* to, size_t bytes) {
#if defined(__x86_64__)
  for (size_t at = 0; at < bytes; at += 16)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + at), _mm_load_si128(reinterpret_cast<const __m128i*>(from + at)));
#else
  memcpy(to, from, bytes);
#endif
}

// What was streamed is seen by whoever is told that it is done.
inline void end_stream() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// The factors of the block of a panel's `outputs` that begins at input k.
template <class F>
void pack_factors(const Stored& matrix, int64_t panel, int outputs, int64_t k, uint8_t* to) {
  if constexpr (F::kWhole) {
    const int64_t groups = (matrix.in + F::kGroup - 1) / F::kGroup, first = k / F::kGroup;
    const int64_t count = std::min<int64_t>(kBlock / F::kGroup, groups - first);
    for (int output = 0; output < outputs; ++output) {
      const auto* factors = static_cast<const bf16*>(matrix.factors) + (panel * kPanel + output) * groups + first;
      for (int group = 0; group < count; ++group)
        memcpy(to + (group * kPanel + output) * sizeof(bf16), factors + group, sizeof(bf16));
    }
  } else if constexpr (F::kCoded) {
    const auto* factors = static_cast<const float*>(matrix.factors);
    memcpy(to, factors + panel * kPanel / kBlock * blocks(matrix.in) + k / kBlock, sizeof(float));
  }
}

template <class F>
void pack_panel(const Stored& matrix, int64_t panel) {
  constexpr int64_t item = kRowBytes<F> / kBlock;
  alignas(64) uint8_t packed[F::kBlockBytes] = {};
  const int outputs = static_cast<int>(std::min<int64_t>(kPanel, matrix.out - panel * kPanel));
  const uint8_t* first = matrix.values + panel * kPanel * matrix.in * item;
  uint8_t* block = matrix.to + panel * matrix.step;
  alignas(64) uint8_t edge[kPanel][kRowBytes<F>];  // a block at the edge, filled up with zeros
  const uint8_t* rows[kPanel];
  for (int64_t k = 0; k < matrix.in; k += kBlock, block += F::kBlockBytes) {
    const int inputs = static_cast<int>(std::min<int64_t>(kBlock, matrix.in - k));
    const bool whole = outputs == kPanel && inputs == kBlock;
    if (!whole) memset(edge, 0, sizeof edge);
    for (int output = 0; output < outputs; ++output) {
      rows[output] = first + (output * matrix.in + k) * item;
      if (!whole) memcpy(edge[output], rows[output], inputs * item);
    }
    if (!whole)
      for (int output = 0; output < kPanel; ++output) rows[output] = edge[output];
    pack_block<F>(rows, packed);
    if constexpr (F::kCoded) pack_factors<F>(matrix, panel, outputs, k, packed + F::kValues);
    stream(packed, block, sizeof packed);
  }
  end_stream();
}

}  // namespace

FB_API int64_t fb_panel_bytes(int64_t format, int64_t in) {
  return static_cast<int64_t>(panel_bytes(static_cast<Format>(format), in));
}

// Many matrices in one call, since threads that wait for each small one fall asleep.
FB_API void fb_pack(Pool* pool, int64_t format, const Stored* matrices, int64_t count) {
  std::vector<int> end(count);  // of each matrix's tasks, one for a panel
  int tasks = 0;
  for (int64_t i = 0; i < count; ++i) end[i] = tasks += static_cast<int>(panels(matrices[i].out));
  with_format(static_cast<Format>(format), [&](auto f) {
    pool->run(tasks, [&](int task, int) {
      const auto matrix = std::upper_bound(end.begin(), end.end(), task) - end.begin();
      pack_panel<decltype(f)>(matrices[matrix], task - (matrix ? end[matrix - 1] : 0));
    });
  });
}

// [out, in] e4m3 with the factors of its blocks -> the same in bfloat16 or float32, each value rounded once.
FB_API void fb_dequantise(Pool* pool, const uint8_t* codes, const float* factors, int64_t out, int64_t in,
                          int64_t is_bf16, void* to) {
  pool->run(static_cast<int>(blocks(out)), [&](int band, int) {
    const float* factor = factors + band * blocks(in);
    for (int64_t row = band * kBlock; row < std::min<int64_t>(out, (band + 1) * kBlock); ++row) {
      for (int64_t i = row * in; i < (row + 1) * in; ++i) {
        const float value = to_float(kE4m3[codes[i]]) * factor[(i - row * in) / kBlock];
        if (is_bf16) static_cast<bf16*>(to)[i] = fullbore::to_bf16(value);
        else static_cast<float*>(to)[i] = value;
      }
    }
  });
}

// Ask for large pages: without them a stream of weights misses the table of page addresses all the time.
FB_API void fb_huge(void* memory, int64_t bytes) {
#if defined(__linux__)
  madvise(memory, bytes, MADV_HUGEPAGE);  // a wish; nothing is lost where it is not granted
#else
  (void)memory, (void)bytes;
#endif
}
