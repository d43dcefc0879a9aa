// `rms_norm`, `add_rms_norm` and `rope`. Each takes its arguments in one struct, which Python packs at once.
#include "pointwise.h"

#include "api.h"

namespace fullbore {
namespace {

// x, y: rows of `width` values, `x_row` and `y_row` apart; weight: [width]; total, out: [tokens][width].
// `rms_norm` has neither y nor total.
struct Norm {
  Pool* pool;
  int64_t is_bf16;
  const void* x;
  int64_t x_row;
  const void* y;
  int64_t y_row;
  const float* weight;
  float eps;
  int64_t tokens, width;
  void *total, *out;
};

template <class In>
void rms_norm(const Norm& call) {
  each_row(*call.pool, call.tokens, call.width, [&](int row, int) {
    rms_norm_row(static_cast<const In*>(call.x) + row * call.x_row, call.weight, call.eps, call.width,
                 static_cast<In*>(call.out) + row * call.width);
  });
}

template <class In>
void add_row(const In* x, const In* y, int64_t width, In* out) {
  int64_t i = 0;
  for (; i + W <= width; i += W) store(out + i, load(x + i) + load(y + i));
  for (; i < width; ++i) set(out[i], widened(x[i]) + widened(y[i]));
}

template <class In>
void add_rms_norm(const Norm& call) {
  each_row(*call.pool, call.tokens, call.width, [&](int row, int) {
    In* const total = static_cast<In*>(call.total) + row * call.width;
    add_row(static_cast<const In*>(call.x) + row * call.x_row, static_cast<const In*>(call.y) + row * call.y_row,
            call.width, total);
    rms_norm_row(total, call.weight, call.eps, call.width, static_cast<In*>(call.out) + row * call.width);
  });
}

// x: [tokens][heads][width] with these strides, the last 2 * pairs of width turned; cos, sin: [tokens][pairs];
// out: [tokens][heads][width].
struct Rope {
  Pool* pool;
  int64_t is_bf16;
  const void* x;
  int64_t x_token, x_head;
  const float *cos, *sin;
  int64_t tokens, heads, width, pairs;
  void* out;
};

template <class In>
void rope(const Rope& call) {
  const int64_t width = call.width, pairs = call.pairs, still = width - 2 * pairs;
  each_row(*call.pool, call.tokens, call.heads * width, [&](int64_t token, int) {
    for (int64_t head = 0; head < call.heads; ++head) {
      const In* from = static_cast<const In*>(call.x) + token * call.x_token + head * call.x_head;
      In* to = static_cast<In*>(call.out) + (token * call.heads + head) * width;
      memcpy(to, from, still * sizeof(In));
      rope_row(from + still, call.cos + token * pairs, call.sin + token * pairs, pairs, to + still);
    }
  });
}

}  // namespace
}  // namespace fullbore

using namespace fullbore;

FB_API void fb_rms_norm(const Norm* call) { (call->is_bf16 ? rms_norm<bf16> : rms_norm<float>)(*call); }

FB_API void fb_add_rms_norm(const Norm* call) { (call->is_bf16 ? add_rms_norm<bf16> : add_rms_norm<float>)(*call); }

FB_API void fb_rope(const Rope* call) { (call->is_bf16 ? rope<bf16> : rope<float>)(*call); }
