// `rms_norm`, `rope` and `kv_append`: each row by itself, float32 inside, rounded once.
#include <algorithm>

#include "api.h"
#include "cache_row.h"
#include "pool.h"
#include "rows.h"
#include "vec.h"

namespace fullbore {
namespace {

constexpr int64_t kShare = 32768;  // values that are worth a thread's attention

// body(row) for every row of `width` values.
template <class Body>
void each_row(Pool& pool, int rows, int64_t width, Body&& body) {
  const int share = std::max<int64_t>(1, kShare / std::max<int64_t>(1, width));
  pool.run((rows + share - 1) / share, [&](int task, int) {
    for (int row = task * share; row < std::min(rows, (task + 1) * share); ++row) body(row);
  });
}

inline void set(float& to, float x) { to = x; }
inline void set(bf16& to, float x) { to = to_bf16(x); }

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
void rope_row(const bf16* x, const float* cos, const float* sin, int pairs, bf16* out) {
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

template <class In>
void rms_norm(Pool& pool, const void* x, int64_t x_row, const float* weight, float eps, int tokens, int width,
              void* out) {
  each_row(pool, tokens, width, [&](int row) {
    rms_norm_row(static_cast<const In*>(x) + row * x_row, weight, eps, width,
                 static_cast<In*>(out) + int64_t{row} * width);
  });
}

template <class In>
void rope(Pool& pool, const void* x, int64_t x_token, int64_t x_head, const float* cos, const float* sin,
          int tokens, int heads, int width, int pairs, void* out) {
  const int still = width - 2 * pairs;
  each_row(pool, tokens, int64_t{heads} * width, [&](int token) {
    for (int head = 0; head < heads; ++head) {
      const In* from = static_cast<const In*>(x) + token * x_token + head * x_head;
      In* to = static_cast<In*>(out) + (int64_t{token} * heads + head) * width;
      memcpy(to, from, still * sizeof(In));
      rope_row(from + still, cos + int64_t{token} * pairs, sin + int64_t{token} * pairs, pairs, to + still);
    }
  });
}

template <class In>
void kv_append(Pool& pool, const CacheRow& row, const void* latent, int64_t latent_row, const void* rope,
               int64_t rope_row, char* cache, const int64_t* slots, int tokens) {
  const int64_t bytes = row.bytes<In>();
  each_row(pool, tokens, bytes, [&](int token) {
    row.encode(static_cast<const In*>(latent) + token * latent_row, static_cast<const In*>(rope) + token * rope_row,
               cache + slots[token] * bytes);
  });
}

}  // namespace
}  // namespace fullbore

using namespace fullbore;

// x: rows of `width` values, `x_row` apart; weight: [width]; out: [tokens][width].
FB_API void fb_rms_norm(Pool* pool, int64_t is_bf16, const void* x, int64_t x_row, const float* weight, float eps,
                        int64_t tokens, int64_t width, void* out) {
  (is_bf16 ? rms_norm<bf16> : rms_norm<float>)(*pool, x, x_row, weight, eps, tokens, width, out);
}

// x: [tokens][heads][width] with these strides, the last 2 * pairs of width turned; cos, sin: [tokens][pairs];
// out: [tokens][heads][width].
FB_API void fb_rope(Pool* pool, int64_t is_bf16, const void* x, int64_t x_token, int64_t x_head, const float* cos,
                    const float* sin, int64_t tokens, int64_t heads, int64_t width, int64_t pairs, void* out) {
  (is_bf16 ? rope<bf16> : rope<float>)(*pool, x, x_token, x_head, cos, sin, tokens, heads, width, pairs, out);
}

// latent, rope: rows of so many values; kv_bits: as in CacheRow; cache: [slot_count] rows. Nothing is written, and 1
// returned, where a slot is none of the cache's.
FB_API int fb_kv_append(Pool* pool, int64_t is_bf16, int64_t kv_bits, const void* latent, int64_t latent_row,
                        int64_t latent_width, const void* rope, int64_t rope_row, int64_t rope_width, char* cache,
                        int64_t slot_count, const int64_t* slots, int64_t tokens) {
  for (int64_t row = 0; row < tokens; ++row)
    if (slots[row] < 0 || slots[row] >= slot_count) return 1;
  const CacheRow row{static_cast<int>(latent_width), static_cast<int>(rope_width), static_cast<int>(kv_bits)};
  (is_bf16 ? kv_append<bf16> : kv_append<float>)(*pool, row, latent, latent_row, rope, rope_row, cache, slots, tokens);
  return 0;
}
