// The innermost loops: up to 6 rows x one panel of 64 outputs x one block of 128 inputs, sums in registers.
//
// A row's sums are made in one order whatever the number of rows, so its bits do not depend on its neighbours.
// Two arithmetics: bfloat16 dot products where the instruction exists, else float32 multiply-adds on weights
// widened from bfloat16 (which is a shift).
#pragma once
#include <type_traits>
#include <utility>

#include "fp8.h"
#include "matrix.h"
#include "vec.h"

namespace fullbore {

constexpr int kRows = 6;  // with 4 vectors of outputs: 24 of 32 registers hold sums

// Vectors of outputs at a time: the whole panel where there are 32 registers of 16, else as many as fit.
constexpr int kVectors = W == 16 ? 4 : 2;

// f(0), f(1), ... f(N - 1), each with its number as a constant.
template <int N, class F>
[[gnu::always_inline]] inline void unrolled(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) [[gnu::always_inline]] {
    (f(std::integral_constant<int, I>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}

// f(constant n) for n in [1, N].
template <int N = kRows, class F>
inline void with_rows(int n, F&& f) {
  if constexpr (N > 0) {
    if (n == N) return f(std::integral_constant<int, N>{});
    with_rows<N - 1>(n, f);
  }
}

// Where a tile's weights come from: vector `j` of pair `k`, as [outputs][2] bfloat16.
class Pairs {
 public:
  explicit Pairs(const void* pairs) : pairs_(static_cast<const uint32_t*>(pairs)) {}

  template <int N>
  [[gnu::always_inline]] void load(int k, int j, vu (&out)[N]) const {
    unrolled<N>([&](auto i) { memcpy(&out[i], pairs_ + k * kPanel + (j + i) * W, sizeof(vu)); });
  }
  const void* at(int k) const { return pairs_ + k * kPanel; }
  static constexpr int kLines = 4;  // cache lines of a pair

 private:
  const uint32_t* pairs_;
};

#if defined(__AVX512VBMI__)

class Codes {
 public:
  explicit Codes(const void* codes) : codes_(static_cast<const uint8_t*>(codes)) {}

  [[gnu::always_inline]] void load(int k, int, vu (&out)[4]) const {
    unrolled<2>([&](auto half) {
      __m512i first, second;
      decode_(codes_ + k * 128 + half * 64, first, second);
      out[2 * half] = reinterpret_cast<vu>(first);
      out[2 * half + 1] = reinterpret_cast<vu>(second);
    });
  }
  const void* at(int k) const { return codes_ + k * 128; }
  static constexpr int kLines = 2;

 private:
  const uint8_t* codes_;
  Fp8Decoder decode_;
};

#endif

// c[row][output] = factor * (sums of this block), added to what is there unless `first`.
struct Into {
  float* c;  // [rows][64]
  float factor;
  bool first;

  [[gnu::always_inline]] void operator()(int row, int vector, vf sum) const {
    float* at = c + row * kPanel + vector * W;
    // One expression: written as two, a compiler may round the product in one kernel and fuse it in another.
    store(at, sum * factor + (first ? vf{} : load(at)));
  }
};

constexpr int kAhead = 4096;  // bytes; what one thread streams from memory while it waits for none of it

template <bool kPrefetch, class Source>
[[gnu::always_inline]] inline void prefetch(const Source& w, int k) {
  if constexpr (kPrefetch)
    unrolled<Source::kLines>([&](auto line) {
      __builtin_prefetch(static_cast<const char*>(w.at(k)) + kAhead + line * 64);
    });
}

// `a`: the rows at the block's first input; `pairs` of inputs in it.
template <int R, bool kPrefetch, class Source>
[[gnu::flatten]] void tile(const float* const* a, const Source& w, int pairs, const Into& into) {
  for (int j0 = 0; j0 < kPanel / W; j0 += kVectors) {
    vf sums[R][kVectors] = {};
    for (int k = 0; k < pairs; ++k) {
      vu both[kVectors];
      w.load(k, j0, both);
      prefetch<kPrefetch>(w, k);
      unrolled<2>([&](auto input) {
        vf weight[kVectors];
        unrolled<kVectors>([&](auto j) {
          weight[j] = reinterpret_cast<vf>(input ? both[j] & 0xffff0000u : both[j] << 16);
        });
        unrolled<R>([&](auto row) {
          const vf x = splat(a[row][2 * k + input]);
          unrolled<kVectors>([&](auto j) { sums[row][j] = x * weight[j] + sums[row][j]; });
        });
      });
    }
    unrolled<R>([&](auto row) { unrolled<kVectors>([&](auto j) { into(row, j0 + j, sums[row][j]); }); });
  }
}

#if defined(__AVX512BF16__)

template <int R, bool kPrefetch, class Source>
[[gnu::flatten]] void tile(const bf16* const* a, const Source& w, int pairs, const Into& into) {
  __m512 sums[R][4];
  unrolled<R>([&](auto row) { unrolled<4>([&](auto j) { sums[row][j] = _mm512_setzero_ps(); }); });
  const bf16* at[R];
  unrolled<R>([&](auto row) { at[row] = a[row]; });
  for (int k = 0; k < pairs; ++k) {
    vu weight[4];
    w.load(k, 0, weight);
    prefetch<kPrefetch>(w, k);
    unrolled<R>([&](auto row) {
      int32_t pair;
      memcpy(&pair, at[row] + 2 * k, sizeof pair);
      const auto x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
      unrolled<4>([&](auto j) {
        sums[row][j] = _mm512_dpbf16_ps(sums[row][j], reinterpret_cast<__m512bh>(weight[j]), x);
      });
    });
  }
  unrolled<R>([&](auto row) {
    unrolled<4>([&](auto j) { into(row, j, reinterpret_cast<vf>(sums[row][j])); });
  });
}

#endif

}  // namespace fullbore
