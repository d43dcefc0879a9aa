// Activations as the arithmetic wants them, and results as the caller wants them.
#pragma once
#include <algorithm>
#include <type_traits>
#include <vector>

#include "buffer.h"
#include "matrix.h"
#include "pool.h"
#include "quantise.h"
#include "vec.h"

namespace fullbore {

// What activations of type X are multiplied as with weights of format F.
template <class F, class X>
using Operand = std::conditional_t<std::is_same_v<X, float> || std::is_same_v<F, Fp32>, float,
                                   std::conditional_t<F::kWhole, std::conditional_t<kByteDots, Quantised, float>,
                                                      std::conditional_t<kDots, bf16, float>>>;

// What results are kept as that are multiplied next: their operand, or what it is quantised from.
template <class F, class X>
using Kept = std::conditional_t<std::is_same_v<Operand<F, X>, Quantised>, X, Operand<F, X>>;

// Values of rows that one task prepares: fewer are done before another thread has begun.
constexpr int64_t kWorthATask = 8192;

inline float widened(float x) { return x; }
inline float widened(bf16 x) { return to_float(x); }

template <class To, class From>
inline void convert(const From* from, To* to, int64_t count) {
  if constexpr (std::is_same_v<To, From>) {
    memcpy(to, from, count * sizeof(To));
  } else {
    int64_t i = 0;
    for (; i + W <= count; i += W) store(to + i, load(from + i));
    for (; i < count; ++i) {  // by memcpy: a key in an FP8 row of the cache may begin at an odd byte
      From one;
      memcpy(&one, from + i, sizeof one);
      To other;
      if constexpr (std::is_same_v<To, bf16>) other = to_bf16(one);
      else other = widened(one);
      memcpy(to + i, &other, sizeof other);
    }
  }
}

// One row of `in` values -> itself as an operand.
template <class X, class A>
inline void prepare(const X* x, int64_t in, A* to) {
  if constexpr (std::is_same_v<A, Quantised>) {
    quantise(x, in, to);
  } else {
    convert(x, to, in);
    if (in % 2) to[in] = 0;
  }
}

// x: [rows, in] -> pointers to rows of Operand<F, X>, floats readable up to an even number of values. Copies only
// where the type or the last pair asks for it, into `copy`, which the rows live in.
template <class F, class X>
std::vector<const Operand<F, X>*>& operands(Pool& pool, const X* x, int64_t rows, int64_t in, Buffer& copy,
                                            std::vector<const Operand<F, X>*>& pointers) {
  using A = Operand<F, X>;
  pointers.resize(rows);
  if (!rows) return pointers;
  if constexpr (std::is_same_v<A, X>) {
    if (in % 2 == 0) {
      for (int64_t row = 0; row < rows; ++row) pointers[row] = x + row * in;
      return pointers;
    }
  }
  const int64_t stride = std::is_same_v<A, Quantised> ? blocks(in) : in + in % 2;
  A* to = copy.of<A>(rows * stride);
  const int64_t together = std::max<int64_t>(1, kWorthATask / in);
  pool.run(static_cast<int>((rows + together - 1) / together), [&](int task, int) {
    for (int64_t row = task * together; row < std::min(rows, (task + 1) * together); ++row)
      prepare(x + row * in, in, to + row * stride);
  });
  for (int64_t row = 0; row < rows; ++row) pointers[row] = to + row * stride;
  return pointers;
}

}  // namespace fullbore
