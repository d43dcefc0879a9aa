// `greedy`: the first of a row's largest logits, and whether all of them are finite, in one pass.
#include <bit>

#include "api.h"
#include "pool.h"
#include "vec.h"

namespace fullbore {
namespace {

constexpr int64_t kNotFinite = -1;
constexpr int kChains = 4;  // independent maxima, since each waits for the one before it

int64_t greedy_row(const float* x, int64_t vocab) {
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
    finite &= (std::bit_cast<uint32_t>(x[i]) & 0x7fffffff) < 0x7f800000;
    offer(x[i], i);
  }
  return finite ? token : kNotFinite;
}

}  // namespace
}  // namespace fullbore

using namespace fullbore;

// x: rows of `vocab` logits, `x_row` apart; tokens: [rows].
FB_API void fb_greedy(Pool* pool, const float* x, int64_t x_row, int64_t rows, int64_t vocab, int64_t* tokens) {
  pool->run(static_cast<int>(rows), [&](int row, int) { tokens[row] = greedy_row(x + row * x_row, vocab); });
}
