// Activations as signed bytes, for dot products of bytes.
#pragma once
#include <algorithm>
#include <bit>
#include <cfloat>
#include <limits>

#include "matrix.h"
#include "vec.h"

namespace fullbore {

constexpr int kRun = 32;  // inputs of the smallest group that weights share a factor in

// A block of one row: values * scale. A row is [blocks] of them, zero beyond its end.
struct Quantised {
  int8_t values[kBlock];
  float scale;  // nan where an activation is not finite
  int32_t sums[kBlock / kRun];

  // Sum of the values of a group: what weights that are stored with their zero at 128 or 8 come out too large by.
  template <int kGroup>
  int32_t sum(int group) const {
    int32_t total = 0;
    for (int run = group * kGroup / kRun; run < (group + 1) * kGroup / kRun; ++run) total += sums[run];
    return total;
  }
};

// Each value to the nearest of 255, such that the block's largest is 127 or -127.
inline void quantise_block(const bf16* x, Quantised& to) {
  bf16 largest = 0;  // magnitudes are ordered like their bits, nan above all
  for (int i = 0; i < kBlock; ++i) largest = std::max<bf16>(largest, x[i] & 0x7fff);
  const float most = to_float(largest);
  to = {};
  if (!(most <= FLT_MAX)) {
    to.scale = std::numeric_limits<float>::quiet_NaN();
    return;
  }
  to.scale = std::max(most / 127, FLT_MIN);  // its inverse is finite, also of a block of zeros
  const float inverse = 1 / to.scale;
  for (int i = 0; i < kBlock; ++i) {
    // The sum has no room for fractions: its lowest bits are the value, rounded to nearest.
    const float rounded = to_float(x[i]) * inverse + 0x1.8p23f;
    to.values[i] = static_cast<int8_t>(std::bit_cast<int32_t>(rounded));
  }
  for (int run = 0; run < kBlock / kRun; ++run)
    for (int i = 0; i < kRun; ++i) to.sums[run] += to.values[run * kRun + i];
}

// x: [in] -> [blocks(in)].
inline void quantise(const bf16* x, int64_t in, Quantised* to) {
  for (int64_t k = 0; k < in; k += kBlock, ++to) {
    if (in - k >= kBlock) {
      quantise_block(x + k, *to);
    } else {
      bf16 last[kBlock] = {};
      memcpy(last, x + k, (in - k) * sizeof(bf16));
      quantise_block(last, *to);
    }
  }
}

}  // namespace fullbore
