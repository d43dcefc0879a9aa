// The innermost loop on whole numbers: up to 6 rows x one panel of 64 outputs x one block of 128 inputs, by dot
// products of bytes. Sums of a group are exact, so only the order of groups shows in a row's bits.
//
// The instruction wants one side unsigned. Weights are stored so, with their zero in the middle, and sums begin at
// what that makes too much of them.
#pragma once
#include "quantise.h"
#include "tile.h"

namespace fullbore {

#if defined(__AVX512VNNI__)

// sums[i] += the four products of unsigned and signed bytes at i. With the intrinsic gcc 12 keeps the sums in memory.
INLINE inline void add_products(__m512i& sums, __m512i unsigned_bytes, __m512i signed_bytes) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(unsigned_bytes), "v"(signed_bytes));
}

template <class F>
struct Quads;

// The 64 outputs of a quad of inputs, [outputs][4] unsigned.
template <>
struct Quads<Int8> {
  INLINE static void load(const uint8_t* numbers, int quad, __m512i (&out)[4]) {
    unrolled<4>([&](auto j) INLINE { out[j] = _mm512_loadu_si512(numbers + (quad * 4 + j) * 64); });
  }
};

template <int kGroup>
struct Quads<Integers<4, kGroup>> {
  INLINE static void load(const uint8_t* numbers, int quad, __m512i (&out)[4]) {
    const __m512i low = _mm512_set1_epi8(15);
    unrolled<2>([&](auto half) INLINE {
      const __m512i both = _mm512_loadu_si512(numbers + (quad * 2 + half) * 64);
      out[2 * half] = _mm512_and_si512(both, low);
      out[2 * half + 1] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    });
  }
};

// Lines that a tile fetches ahead at so many a quad of inputs: after those of a group two with factors.
template <class F>
constexpr int lines_ahead(int lines) {
  return kBlock / 4 * lines + kBlock / F::kGroup * 2;
}

// `a`: the rows' blocks; `block`: the weights'; c: [R][64], added to unless `first`.
template <int R, class F, Fetch kFetch>
[[gnu::noinline]] void tile(const Quantised* const* a, const uint8_t* block, const uint8_t* ahead, float* c,
                           bool first) {
  constexpr int kQuads = F::kGroup / 4;
  const int8_t* at[R];
  unrolled<R>([&](auto row) INLINE { at[row] = a[row]->values; });
  for (int group = 0; group < kBlock / F::kGroup; ++group) {
    __m512i sums[R][4];
    unrolled<R>([&](auto row) INLINE {
      const __m512i excess = _mm512_set1_epi32(-F::kZero * a[row]->template sum<F::kGroup>(group));
      unrolled<4>([&](auto j) INLINE { sums[row][j] = excess; });
    });
    for (int quad = group * kQuads; quad < (group + 1) * kQuads; ++quad) {
      __m512i weight[4];
      Quads<F>::load(block, quad, weight);
      prefetch<kFetch>(ahead + group * 2 * 64, quad);
      unrolled<R>([&](auto row) INLINE {
        int32_t four;
        memcpy(&four, at[row] + 4 * quad, sizeof four);
        const __m512i x = _mm512_set1_epi32(four);
        unrolled<4>([&](auto j) INLINE { add_products(sums[row][j], weight[j], x); });
      });
    }
    if constexpr (kFetch.lines > 0) {
      prefetch<Fetch{2, kFetch.cache}>(ahead + (group + 1) * kQuads * kFetch.lines * 64, group);
    }
    // As it does where it may mix their conversion with the loop.
    unrolled<R>([&](auto row) INLINE { unrolled<4>([&](auto j) INLINE { asm volatile("" : "+v"(sums[row][j])); }); });
    unrolled<R>([&](auto row) INLINE {
      const __m512 scale = _mm512_set1_ps(a[row]->scale);
      unrolled<4>([&](auto j) INLINE {
        const auto factor = reinterpret_cast<__m512>(factors(F::factor(block, group), j));
        float* const to = c + row * kPanel + j * 16;
        const __m512 before = first && group == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(to);
        const auto sum = reinterpret_cast<__m512>(__builtin_convertvector(reinterpret_cast<vi>(sums[row][j]), vf));
        _mm512_storeu_ps(to, _mm512_fmadd_ps(sum, _mm512_mul_ps(factor, scale), before));
      });
    });
  }
}

#endif

}  // namespace fullbore
