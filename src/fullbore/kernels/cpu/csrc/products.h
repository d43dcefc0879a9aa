// The two products that attention and routing are made of, in registers, for either arithmetic.
//
// `dots`: out[r][c] = sum over k of rows[r][k] * panel[k][c]; rows are broadcast, a panel is read by vectors.
// `mix`: out[r][d] = sum over keys of weight[key][r] * rows[key][d]; the rows are read by vectors.
//
// Every element has one accumulator and takes its products in order, so its bits depend on nothing but its
// own row and column: not on how many rows share the tile nor on where in it they are.
#pragma once
#include <type_traits>

#include "vec.h"

namespace fullbore {

static inline int up(int size, int multiple) { return (size + multiple - 1) / multiple * multiple; }

// float32 products and sums.
struct Fp32Dots {
  using T = float;
  using V = vf;
  static constexpr int kPair = 1;  // values along the inner dimension that one lane takes at once

  static V read(const T* p) { return load(p); }
  static V broadcast(const T* p) { return *p - vf{}; }
  static vf dot(vf sum, V a, V b) { return sum + a * b; }
  static void columns(const T* const* rows, int d, V* v) {
    v[0] = load(rows[0] + d);
    v[1] = load(rows[0] + d + W);
  }
  static void write(T* p, const vf* values) { store(p, values[0]); }
};

#if defined(__AVX512BF16__)
// bfloat16 products, two to a lane, summed in float32.
struct Bf16Dots {
  using T = bf16;
  using V = __m512bh;
  static constexpr int kPair = 2;

  static V read(const T* p) { return reinterpret_cast<V>(_mm512_loadu_si512(p)); }
  static V broadcast(const T* p) {
    int both;
    memcpy(&both, p, sizeof both);
    return reinterpret_cast<V>(_mm512_set1_epi32(both));
  }
  static vf dot(vf sum, V a, V b) {
    return reinterpret_cast<vf>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), a, b));
  }
  // 32 columns of two rows, interleaved: lanes come out in the order that `column_of` gives.
  static void columns(const T* const* rows, int d, V* v) {
    const __m512i x = _mm512_loadu_si512(rows[0] + d), y = _mm512_loadu_si512(rows[1] + d);
    v[0] = reinterpret_cast<V>(_mm512_unpacklo_epi16(x, y));
    v[1] = reinterpret_cast<V>(_mm512_unpackhi_epi16(x, y));
  }
  // Each lane's two values beside each other.
  static void write(T* p, const vf* values) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                                           23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512bh both =
        _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(values[1]), reinterpret_cast<__m512>(values[0]));
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(order, reinterpret_cast<__m512i>(both)));
  }
};
#endif

#define FULLBORE_UNROLL _Pragma("GCC unroll 32")

// `pairs`: inner size / kPair. `stride`: columns of the panel, which is [pairs][stride][kPair].
template <class A, int R, int C>
static inline void dots_tile(const typename A::T* const* rows, const typename A::T* panel, int stride, int pairs,
                             float* out, int out_stride) {
  vf sums[R][C];
  const typename A::T* row[R];
  FULLBORE_UNROLL for (int r = 0; r < R; ++r) {
    row[r] = rows[r];
    FULLBORE_UNROLL for (int c = 0; c < C; ++c) sums[r][c] = vf{};
  }
  for (int k = 0; k < pairs; ++k) {
    typename A::V right[C];
    FULLBORE_UNROLL for (int c = 0; c < C; ++c) right[c] = A::read(panel + c * W * A::kPair);
    FULLBORE_UNROLL for (int r = 0; r < R; ++r) {
      const typename A::V left = A::broadcast(row[r] + k * A::kPair);
      FULLBORE_UNROLL for (int c = 0; c < C; ++c) sums[r][c] = A::dot(sums[r][c], left, right[c]);
    }
    panel += stride * A::kPair;
  }
  FULLBORE_UNROLL for (int r = 0; r < R; ++r) {
    FULLBORE_UNROLL for (int c = 0; c < C; ++c) store(out + r * out_stride + c * W, sums[r][c]);
  }
}

// The last rows are taken by so many at once: `dots` reads up to kRowTail - 1 pointers past `n`, and writes that many
// rows of `out`, so both have room for n + kRowTail and the pointers may be followed.
constexpr int kRowTail = 4;

template <class A, int C>
static inline void dots_columns(const typename A::T* const* rows, int n, const typename A::T* panel, int stride,
                                int pairs, float* out, int out_stride) {
  constexpr int kRegisters = W == 16 ? 24 : 8;  // accumulators
  constexpr int R = C == 1 ? 8 : W < 16 ? 4 : C == 2 ? 8 : kRegisters / 4;
  if (n == 1) return dots_tile<A, 1, C>(rows, panel, stride, pairs, out, out_stride);
  int r = 0;
  for (; r + R <= n; r += R) dots_tile<A, R, C>(rows + r, panel, stride, pairs, out + r * out_stride, out_stride);
  for (; r < n; r += kRowTail)
    dots_tile<A, kRowTail, C>(rows + r, panel, stride, pairs, out + r * out_stride, out_stride);
}

// `columns`: a multiple of W, of the panel's `stride`.
template <class A>
static void dots(const typename A::T* const* rows, int n, const typename A::T* panel, int stride, int columns,
                 int pairs, float* out, int out_stride) {
  constexpr int kWide = W == 16 ? 4 : 2;
  for (int c = 0; c < columns; c += kWide * W) {
    const typename A::T* at = panel + c * A::kPair;
    switch (columns - c >= kWide * W ? kWide : (columns - c) / W) {
      case 1: dots_columns<A, 1>(rows, n, at, stride, pairs, out + c, out_stride); break;
      case 2: dots_columns<A, 2>(rows, n, at, stride, pairs, out + c, out_stride); break;
      case 3:
        if constexpr (kWide > 2) dots_columns<A, 3>(rows, n, at, stride, pairs, out + c, out_stride);
        break;
      default:
        if constexpr (kWide > 2) dots_columns<A, 4>(rows, n, at, stride, pairs, out + c, out_stride);
    }
  }
}

// Two vectors of columns, from d on, for R rows of weights [pairs][stride][kPair]; `done(r, half, sum)` takes each.
// `meanwhile()` is called once for each pair: a place to fetch what comes next.
template <class A, int R, class Meanwhile, class Done>
static inline void mix_tile(const typename A::T* const* rows, int pairs, const typename A::T* weights, int stride,
                            int d, Meanwhile&& meanwhile, Done&& done) {
  vf sums[R][2];
  FULLBORE_UNROLL for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = vf{};
  for (int k = 0; k < pairs; ++k) {
    typename A::V right[2];
    A::columns(rows + k * A::kPair, d, right);
    meanwhile();
    FULLBORE_UNROLL for (int r = 0; r < R; ++r) {
      const typename A::V left = A::broadcast(weights + r * A::kPair);
      sums[r][0] = A::dot(sums[r][0], left, right[0]);
      sums[r][1] = A::dot(sums[r][1], left, right[1]);
    }
    weights += stride * A::kPair;
  }
  FULLBORE_UNROLL for (int r = 0; r < R; ++r) {
    done(r, 0, sums[r][0]);
    done(r, 1, sums[r][1]);
  }
}

}  // namespace fullbore
