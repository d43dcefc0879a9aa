// `greedy`: the first of a row's largest logits, and whether all of them are finite, in one pass.
#include <bit>

#include "api.h"
#include "pool.h"
#include "rows.h"
#include "vec.h"

namespace fullbore {
namespace {

constexpr int64_t kNotFinite = -1;
constexpr int kChains = 4;  // independent maxima, since each waits for the one before it

template <class In>
int64_t greedy_row(const In* x, int64_t vocab) {
  vf best[kChains];
  vi at[kChains], wrong{};
  for (int chain = 0; chain < kChains; ++chain) best[chain] = splat(-INFINITY), at[chain] = vi{};
  int64_t i = 0;
  for (; i + kChains * W <= vocab; i += kChains * W)
    for (int chain = 0; chain < kChains; ++chain) {
      const vf v = load(x + i + chain * W);
      wrong |= (reinterpret_cast<vi>(v) & 0x7fffffff) >= 0x7f800000;
      at[chain] = v > best[chain] ? vi{} + static_cast<int32_t>(i) : at[chain];  // the first of equals stays
      best[chain] = max(v, best[chain]);
    }
  bool finite = true;
  float most = -INFINITY;
  int64_t token = vocab;
  const auto offer = [&](float value, int64_t index) {
    if (value > most || (value == most && index < token)) most = value, token = index;
  };
  for (int lane = 0; lane < W; ++lane) {
    finite &= !wrong[lane];
    for (int chain = 0; chain < kChains; ++chain) offer(best[chain][lane], at[chain][lane] + chain * W + lane);
  }
  for (; i < vocab; ++i) {
    const float value = widened(x[i]);
    finite &= (std::bit_cast<uint32_t>(value) & 0x7fffffff) < 0x7f800000;
    offer(value, i);
  }
  return finite ? token : kNotFinite;
}

// x: rows of `vocab` logits, `x_row` apart; tokens: [rows].
struct Greedy {
  Pool* pool;
  int64_t is_bf16;
  const void* x;
  int64_t x_row, rows, vocab;
  int64_t* tokens;
};

template <class In>
void greedy(const Greedy& call) {
  call.pool->run(static_cast<int>(call.rows), [&](int row, int) {
    call.tokens[row] = greedy_row(static_cast<const In*>(call.x) + row * call.x_row, call.vocab);
  });
}

}  // namespace
}  // namespace fullbore

using namespace fullbore;

FB_API void fb_greedy(const Greedy* call) { (call->is_bf16 ? greedy<bf16> : greedy<float>)(*call); }
