// Activations as the arithmetic wants them, and results as the caller wants them.
#pragma once
#include <algorithm>
#include <type_traits>
#include <vector>

#include "buffer.h"
#include "matrix.h"
#include "pool.h"
#include "vec.h"

namespace fullbore {

// What activations of type X are multiplied as.
template <class X>
using Operand = std::conditional_t<kDots && std::is_same_v<X, bf16>, bf16, float>;

inline float widened(float x) { return x; }
inline float widened(bf16 x) { return to_float(x); }

template <class To, class From>
inline void convert(const From* from, To* to, int64_t count) {
  if constexpr (std::is_same_v<To, From>) {
    memcpy(to, from, count * sizeof(To));
  } else {
    int64_t i = 0;
    for (; i + W <= count; i += W) store(to + i, load(from + i));
    for (; i < count; ++i) {
      if constexpr (std::is_same_v<To, bf16>) to[i] = to_bf16(from[i]);
      else to[i] = widened(from[i]);
    }
  }
}

// x: [rows, in] -> pointers to rows of Operand<X>, readable up to an even number of values. Copies only where the
// type or the last pair asks for it, into `copy`, which the rows live in.
template <class X>
std::vector<const Operand<X>*>& operands(Pool& pool, const X* x, int64_t rows, int64_t in, Buffer& copy,
                                         std::vector<const Operand<X>*>& pointers) {
  using A = Operand<X>;
  pointers.resize(rows);
  if constexpr (std::is_same_v<A, X>) {
    if (in % 2 == 0) {
      for (int64_t row = 0; row < rows; ++row) pointers[row] = x + row * in;
      return pointers;
    }
  }
  const int64_t stride = in + in % 2;
  A* to = copy.of<A>(rows * stride);
  constexpr int64_t kTogether = 16;
  pool.run(static_cast<int>((rows + kTogether - 1) / kTogether), [&](int task, int) {
    for (int64_t row = task * kTogether; row < std::min(rows, (task + 1) * kTogether); ++row) {
      convert(x + row * in, to + row * stride, in);
      if (in % 2) to[row * stride + in] = 0;
    }
  });
  for (int64_t row = 0; row < rows; ++row) pointers[row] = to + row * stride;
  return pointers;
}

}  // namespace fullbore
