// `route`: scores of all experts in float32, then each token's choice.
#include <algorithm>

#include "api.h"
#include "pool.h"
#include "products.h"
#include "rows.h"
#include "workspace.h"

namespace fullbore {
namespace {

constexpr int kInner = 256;  // inputs that are summed by themselves, so that long sums lose little
constexpr int kTokens = 24;  // of a task

struct Gate {
  const float* values;  // [experts / kPanel][hidden][kPanel], zeros beyond the last expert
  const float* bias;    // [experts]
  int32_t experts, hidden, k, n_group, topk_group, norm;
  float scale;
};

// 1 / (1 + e^-x) without overflow.
inline vf sigmoid(vf x) {
  const vf small = exp(x < 0 ? x : -x);
  return (x < 0 ? small : splat(1.0f)) / (1.0f + small);
}

// `scores`: [tokens][row] of which this fills one panel's columns.
template <class In>
void score(const In* x, int64_t x_row, int tokens, const float* panel, int hidden, float* scores, int64_t row) {
  alignas(64) float copies[kTokens][kInner], product[kTokens + kRowTail][kPanel];
  for (int i = 0; i < tokens; ++i) std::fill(scores + i * row, scores + i * row + kPanel, 0.0f);
  for (int begin = 0; begin < hidden; begin += kInner) {
    const int inner = std::min(kInner, hidden - begin);
    const float* left[kTokens + kRowTail];
    for (int i = 0; i < kTokens + kRowTail; ++i) {
      const int token = std::min(i, tokens - 1);
      const In* const from = x + token * x_row + begin;
      if constexpr (std::is_same_v<In, float>) {
        left[i] = from;
      } else {
        left[i] = copies[token];
        if (i == token) convert(from, copies[token], inner);
      }
    }
    dots<Fp32Dots>(left, tokens, panel + int64_t{begin} * kPanel, kPanel, kPanel, inner, product[0], kPanel);
    const bool last = begin + inner == hidden;
    for (int i = 0; i < tokens; ++i)
      for (int c = 0; c < kPanel; c += W) {
        float* const at = scores + i * row + c;
        const vf sum = load(at) + load(product[i] + c);
        store(at, last ? sigmoid(sum) : sum);
      }
  }
}

// The best `k` values offered so far, best first; of equals the one offered first. What is not a number counts as
// the largest, so that there always are k.
struct Best {
  float* values;
  int64_t* ids;
  int k, count = 0;

  void offer(float x, int64_t id) {
    if (x != x) x = INFINITY;
    if (count == k && !(x > values[k - 1])) return;
    int at = count < k ? count++ : k - 1;
    for (; at > 0 && x > values[at - 1]; --at) {
      values[at] = values[at - 1];
      ids[at] = ids[at - 1];
    }
    values[at] = x;
    ids[at] = id;
  }
};

// `scratch`: room for n_group values and numbers.
void choose(const Gate& gate, const float* scores, void* scratch, int64_t* ids, float* weights) {
  const int size = gate.experts / gate.n_group;
  int64_t* const groups = static_cast<int64_t*>(scratch);
  float* const strengths = reinterpret_cast<float*>(groups + gate.n_group);
  Best kept{strengths, groups, gate.topk_group};
  for (int group = 0; group < gate.n_group; ++group) {
    float pair[2] = {-INFINITY, 0.0f};
    int64_t unused[2];
    if (gate.topk_group < gate.n_group) {
      Best two{pair, unused, 2};
      for (int e = group * size; e < (group + 1) * size; ++e) two.offer(scores[e] + gate.bias[e], e);
    }
    kept.offer(pair[0] + pair[1], group);
  }
  std::sort(groups, groups + gate.topk_group);  // equal experts in order of their numbers
  Best best{weights, ids, gate.k};
  for (int i = 0; i < gate.topk_group; ++i)
    for (int64_t e = groups[i] * size; e < (groups[i] + 1) * size; ++e) best.offer(scores[e] + gate.bias[e], e);
  float total = 0.0f;
  for (int i = 0; i < gate.k; ++i) total += weights[i] = scores[ids[i]];
  for (int i = 0; i < gate.k; ++i) {
    if (gate.norm) weights[i] /= total + 1e-20f;
    weights[i] *= gate.scale;
  }
}

// x: rows of `hidden` values, `x_row` apart; ids, weights: [tokens][k].
struct Route {
  Pool* pool;
  const Gate* gate;
  int64_t is_bf16;
  const void* x;
  int64_t x_row, tokens;
  int64_t* ids;
  float* weights;
};

template <class In>
void route(const Route& call) {
  Pool& pool = *call.pool;
  const Gate& gate = *call.gate;
  const In* const x = static_cast<const In*>(call.x);
  const int tokens = call.tokens;
  const int panels = (gate.experts + kPanel - 1) / kPanel, chunks = (tokens + kTokens - 1) / kTokens;
  const int64_t row = int64_t{panels} * kPanel;
  const size_t group_bytes = gate.n_group * (sizeof(int64_t) + sizeof(float));
  Workspace& space = Workspace::mine();
  space.reserve(Workspace::bytes_for<float>(tokens * row));
  float* const scores = space.take<float>(tokens * row);
  pool.run(chunks * panels, [&](int task, int) {
    const int begin = task / panels * kTokens, panel = task % panels;
    score(x + begin * call.x_row, call.x_row, std::min(kTokens, tokens - begin),
          gate.values + int64_t{panel} * gate.hidden * kPanel, gate.hidden, scores + begin * row + panel * kPanel, row);
  });
  pool.run(chunks, [&](int task, int worker) {
    void* const scratch = pool.scratch(worker, group_bytes);
    for (int i = task * kTokens; i < std::min(tokens, (task + 1) * kTokens); ++i)
      choose(gate, scores + i * row, scratch, call.ids + int64_t{i} * gate.k, call.weights + int64_t{i} * gate.k);
  });
}

}  // namespace
}  // namespace fullbore

using namespace fullbore;

FB_API void fb_route(const Route* call) { (call->is_bf16 ? route<bf16> : route<float>)(*call); }
