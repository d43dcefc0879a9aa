// The innermost loops: up to 6 rows x one panel of 64 outputs x one group of inputs (a block, or less where more
// factors belong to it), sums in registers.
//
// A row's sums are made in one order whatever the number of rows, so its bits do not depend on its neighbours.
// Two arithmetics: bfloat16 dot products where the instruction exists, else float32 multiply-adds on weights
// widened from bfloat16 (which is a shift).
#pragma once
#include <algorithm>
#include <type_traits>
#include <utility>

#include "fp8.h"
#include "matrix.h"
#include "vec.h"

namespace fullbore {

// A loop's body that gcc leaves out of line takes the sums with it, from registers to memory.
#define INLINE __attribute__((always_inline))

constexpr int kRows = 6;  // with 4 vectors of outputs: 24 of 32 registers hold sums

// Vectors of outputs at a time: the whole panel where there are 32 registers of 16, else as many as fit.
constexpr int kVectors = W == 16 ? 4 : 2;

// f(0), f(1), ... f(N - 1), each with its number as a constant.
template <int N, class F>
INLINE inline void unrolled(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) INLINE {
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

// Where a tile's weights come from: vectors `j`, `j` + 1, ... of pair `k`, as [outputs][2] bfloat16.
class Pairs {
 public:
  static constexpr int kTogether = 4;  // vectors that a tile holds beside its sums

  explicit Pairs(const void* pairs) : pairs_(static_cast<const uint32_t*>(pairs)) {}

  template <int N>
  INLINE void load(int k, int j, vu (&out)[N]) const {
    unrolled<N>([&](auto i) INLINE { memcpy(&out[i], pairs_ + k * kPanel + (j + i) * W, sizeof(vu)); });
  }

 private:
  const uint32_t* pairs_;
};

// Vector `j` of one input, in float32.
class Floats {
 public:
  explicit Floats(const void* floats) : floats_(static_cast<const float*>(floats)) {}

  INLINE vf load(int input, int j) const { return fullbore::load(floats_ + input * kPanel + j * W); }

 private:
  const float* floats_;
};

#if defined(__AVX512VBMI__)

class Codes {
 public:
  static constexpr int kTogether = 2;  // the decoder's tables take registers too

  explicit Codes(const void* codes) : codes_(static_cast<const uint8_t*>(codes)) {}

  template <int N>
  INLINE void load(int k, int j, vu (&out)[N]) const {
    unrolled<N / 2>([&](auto half) INLINE {
      __m512i codes = _mm512_loadu_si512(codes_ + k * 128 + (j / 2 + half) * 64), first, second;
      // Where registers are scarce gcc 12 would load them for each of their uses: that takes a register more.
      if constexpr (N == 2) asm("" : "+v"(codes));
      decode_(codes, first, second);
      out[2 * half] = reinterpret_cast<vu>(first);
      out[2 * half + 1] = reinterpret_cast<vu>(second);
    });
  }

 private:
  const uint8_t* codes_;
  Fp8Decoder decode_;
};

#endif

// One factor for all outputs, or [64] of them: those of vector `j`.
INLINE inline vf factors(float all, int) { return splat(all); }
INLINE inline vf factors(const bf16* each, int j) { return load(each + j * W); }

// c[row][output] = factor * (sums of this group), added to what is there unless `first`.
template <class Factor>
struct Into {
  float* c;  // [rows][64]
  Factor factor;
  bool first;

  INLINE void operator()(int row, int vector, vf sum) const {
    float* at = c + row * kPanel + vector * W;
    // One expression: written as two, a compiler may round the product in one kernel and fuse it in another.
    store(at, sum * factors(factor, vector) + (first ? vf{} : load(at)));
  }
};

// What to fetch meanwhile: `lines` cache lines for each pair of inputs, into the first (3) or second (2) cache.
struct Fetch {
  int lines, cache;
};

template <Fetch kFetch>
INLINE inline void prefetch(const uint8_t* ahead, int k) {
  unrolled<kFetch.lines>([&](auto line) INLINE {
    __builtin_prefetch(ahead + (k * kFetch.lines + line) * 64, 0, kFetch.cache);
  });
}

// `a`: the rows at the group's first input; `pairs` of inputs in it; `ahead`: where to fetch from.
template <int R, Fetch kFetch, class Source, class Into>
[[gnu::noinline]] void tile(const float* const* a, const Source& w, int pairs, const uint8_t* ahead, const Into& into) {
  for (int j0 = 0; j0 < kPanel / W; j0 += kVectors) {
    vf sums[R][kVectors] = {};
    for (int k = 0; k < pairs; ++k) {
      constexpr bool kWiden = !std::is_same_v<Source, Floats>;
      [[maybe_unused]] vu both[kVectors];
      if constexpr (kWiden) w.load(k, j0, both);
      prefetch<kFetch>(ahead, k);
      unrolled<2>([&](auto input) INLINE {
        vf weight[kVectors];
        unrolled<kVectors>([&](auto j) INLINE {
          if constexpr (kWiden) weight[j] = reinterpret_cast<vf>(input ? both[j] & 0xffff0000u : both[j] << 16);
          else weight[j] = w.load(2 * k + input, j0 + j);
        });
        unrolled<R>([&](auto row) INLINE {
          const vf x = splat(a[row][2 * k + input]);
          unrolled<kVectors>([&](auto j) INLINE { sums[row][j] = x * weight[j] + sums[row][j]; });
        });
      });
    }
    unrolled<R>([&](auto row) INLINE { unrolled<kVectors>([&](auto j) INLINE { into(row, j0 + j, sums[row][j]); }); });
  }
}

#if defined(__AVX512BF16__)

template <int R, Fetch kFetch, class Source, class Into>
[[gnu::noinline]] void tile(const bf16* const* a, const Source& w, int pairs, const uint8_t* ahead, const Into& into) {
  __m512 sums[R][4];
  unrolled<R>([&](auto row) INLINE { unrolled<4>([&](auto j) INLINE { sums[row][j] = _mm512_setzero_ps(); }); });
  const bf16* at[R];
  unrolled<R>([&](auto row) INLINE { at[row] = a[row]; });
  // Vectors of pair `k` from `first` on, with every row.
  const auto multiply = [&](int k, int first, const auto& weight) INLINE {
    unrolled<R>([&](auto row) INLINE {
      int32_t pair;
      memcpy(&pair, at[row] + 2 * k, sizeof pair);
      const auto x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
      unrolled<sizeof weight / sizeof(vu)>([&](auto i) INLINE {
        __m512& sum = sums[row][first + i];
        sum = _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(weight[i]), x);
      });
    });
  };
  if constexpr (R == 2 || R == 3) {
    // So few products would wait for their weights: those of the next pair are made ready meanwhile. (With one row
    // memory is waited for, and sooner so.)
    vu weight[4], next[4];
    w.load(0, 0, weight);
    for (int k = 0; k < pairs; ++k) {
      w.load(std::min(k + 1, pairs - 1), 0, next);
      prefetch<kFetch>(ahead, k);
      multiply(k, 0, weight);
      unrolled<4>([&](auto j) INLINE { weight[j] = next[j]; });
    }
  } else {
    constexpr int kTogether = R == 1 ? 4 : Source::kTogether;
    for (int k = 0; k < pairs; ++k) {
      prefetch<kFetch>(ahead, k);
      unrolled<4 / kTogether>([&](auto part) INLINE {
        vu weight[kTogether];
        w.load(k, part * kTogether, weight);
        multiply(k, part * kTogether, weight);
      });
    }
  }
  unrolled<R>([&](auto row) INLINE {
    unrolled<4>([&](auto j) INLINE { into(row, j, reinterpret_cast<vf>(sums[row][j])); });
  });
}

#endif

}  // namespace fullbore
