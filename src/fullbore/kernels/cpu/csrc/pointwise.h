// What is done to a row by itself: float32 inside, rounded once.
#pragma once
#include <algorithm>

#include "pool.h"
#include "rows.h"
#include "vec.h"

namespace fullbore {

constexpr int64_t kShare = 32768;  // values that are worth a thread's attention

// body(row, worker) for every row of `width` values.
template <class Body>
void each_row(Pool& pool, int rows, int64_t width, Body&& body) {
  const int share = std::max<int64_t>(1, kShare / std::max<int64_t>(1, width));
  pool.run((rows + share - 1) / share, [&](int task, int worker) {
    for (int row = task * share; row < std::min(rows, (task + 1) * share); ++row) body(row, worker);
  });
}

inline void set(float& to, float x) { to = x; }
inline void set(bf16& to, float x) { to = to_bf16(x); }

// out: x, normalised.
template <class In>
void rms_norm_row(const In* x, const float* weight, float eps, int width, In* out) {
  vf squares[4] = {};
  int i = 0;
  for (; i + 4 * W <= width; i += 4 * W)
    for (int part = 0; part < 4; ++part) {
      const vf v = load(x + i + part * W);
      squares[part] = squares[part] + v * v;
    }
  float total = sum((squares[0] + squares[1]) + (squares[2] + squares[3]));
  for (; i < width; ++i) total += widened(x[i]) * widened(x[i]);
  const float scale = 1.0f / std::sqrt(total / static_cast<float>(width) + eps);
  for (i = 0; i + W <= width; i += W) store(out + i, load(x + i) * scale * load(weight + i));
  for (; i < width; ++i) set(out[i], widened(x[i]) * scale * weight[i]);
}

// out: x, its pair i turned by angle i.
template <class In>
void rope_row(const In* x, const float* cos, const float* sin, int pairs, In* out) {
  for (int i = 0; i < pairs; ++i) {
    const float even = widened(x[2 * i]), odd = widened(x[2 * i + 1]);
    set(out[2 * i], even * cos[i] - odd * sin[i]);
    set(out[2 * i + 1], odd * cos[i] + even * sin[i]);
  }
}

// Rounded to bfloat16, in the upper half of each lane.
inline vu upper(vf x) {
  const vu u = reinterpret_cast<vu>(x);
  return x == x ? (u + 0x7fff + ((u >> 16) & 1)) & 0xffff0000u : (u | 0x400000) & 0xffff0000u;
}

template <>
inline void rope_row(const bf16* x, const float* cos, const float* sin, int pairs, bf16* out) {
  int i = 0;
  for (; i + W <= pairs; i += W) {  // a lane holds a pair
    vu both;
    memcpy(&both, x + 2 * i, sizeof both);
    const vf even = reinterpret_cast<vf>(both << 16), odd = reinterpret_cast<vf>(both & 0xffff0000u);
    const vf c = load(cos + i), s = load(sin + i);
    const vu turned = (upper(even * c - odd * s) >> 16) | upper(odd * c + even * s);
    memcpy(out + 2 * i, &turned, sizeof turned);
  }
  for (; i < pairs; ++i) {
    const float even = to_float(x[2 * i]), odd = to_float(x[2 * i + 1]);
    out[2 * i] = to_bf16(even * cos[i] - odd * sin[i]);
    out[2 * i + 1] = to_bf16(odd * cos[i] + even * sin[i]);
  }
}

}  // namespace fullbore
