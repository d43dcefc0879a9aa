// The routed experts of a layer: y[token] = sum over its experts of score * down(silu(gate x) * up x).
//
// Two passes. First every chosen expert's hidden values, a task for each 64 of them; then the outputs, a task for
// some panels of 64, which walks the experts in order: one sum for each output in one order, and no task waits for
// another. Consecutive tasks, and the panels within one, read on where the last one stopped.
#include "api.h"
#include "panel.h"
#include "rows.h"

using namespace fullbore;

namespace {

struct Sizes {
  int64_t experts, hidden, inter;
};

// Of each expert: gate and up panels in turn, then the panels of down.
template <class F>
struct Experts {
  const uint8_t* memory;
  Sizes sizes;
  size_t in_step = blocks(sizes.hidden) * F::kBlockBytes, out_step = blocks(sizes.inter) * F::kBlockBytes;
  size_t gate_up_bytes = 2 * panels(sizes.inter) * in_step;
  size_t bytes = gate_up_bytes + panels(sizes.hidden) * out_step;

  const uint8_t* gate(int64_t expert, int64_t panel) const { return memory + expert * bytes + 2 * panel * in_step; }
  const uint8_t* up(int64_t expert, int64_t panel) const { return gate(expert, panel) + in_step; }
  const uint8_t* down(int64_t expert, int64_t panel) const {
    return memory + expert * bytes + gate_up_bytes + panel * out_step;
  }
};

// (token, choice) pairs by expert, within one in the order of tokens.
struct Slots {
  std::vector<int> begin;   // [experts + 1]
  std::vector<int> chosen;  // experts with at least one token, in order
  std::vector<int> token;   // [slots]
  std::vector<float> score;

  // False where an id is no expert.
  bool fill(int64_t experts, int64_t tokens, int64_t k, const int64_t* ids, const float* scores) {
    begin.assign(experts + 1, 0);
    chosen.clear();
    token.resize(tokens * k);
    score.resize(tokens * k);
    for (int64_t i = 0; i < tokens * k; ++i) {
      if (ids[i] < 0 || ids[i] >= experts) return false;
      ++begin[ids[i] + 1];
    }
    for (int64_t expert = 0; expert < experts; ++expert) {
      if (begin[expert + 1]) chosen.push_back(static_cast<int>(expert));
      begin[expert + 1] += begin[expert];
    }
    next.assign(begin.begin(), begin.end() - 1);
    for (int64_t i = 0; i < tokens * k; ++i) {
      const int slot = next[ids[i]]++;
      token[slot] = static_cast<int>(i / k);
      score[slot] = scores[i];
    }
    return true;
  }

 private:
  std::vector<int> next;
};

inline void swiglu(const float* gate, const float* up, float* to) {
  for (int i = 0; i < kPanel; i += W) {
    const vf g = load(gate + i);
    store(to + i, g / (exp(-g) + 1.0f) * load(up + i));
  }
}

// Panels of outputs that a task of the second pass makes of each expert in turn: a long stretch of memory, unless
// the sums of many tokens would leave the caches; two tasks a thread, so that a slow one is helped.
inline int panels_together(const Pool& pool, int panels, int64_t tokens) {
  constexpr int64_t kSums = 512;  // rows of 64 sums
  return static_cast<int>(std::clamp<int64_t>(kSums / tokens, 1, std::max(1, panels / (2 * pool.threads()))));
}

template <class F, class X>
int64_t run(Pool& pool, const Experts<F>& experts, int64_t tokens, int64_t k, const X* x, const int64_t* ids,
            const float* scores, X* y) {
  using A = Operand<F, X>;
  static thread_local Slots slots;
  static thread_local Buffer copy, inner, inner_copy;
  static thread_local std::vector<const A*> token_rows, in_rows, h_rows;
  const auto [count, hidden, inter] = experts.sizes;
  if (!slots.fill(count, tokens, k, ids, scores)) return 1;
  if (!tokens) return 0;

  const auto& rows = operands<F>(pool, x, tokens, hidden, copy, token_rows);
  const int64_t h_stride = panels(inter) * kPanel;
  auto* h = inner.of<Kept<F, X>>(tokens * k * h_stride);  // [slots, inter]
  in_rows.resize(tokens * k);
  for (int64_t slot = 0; slot < tokens * k; ++slot) in_rows[slot] = rows[slots.token[slot]];
  const A* const* inputs = in_rows.data();
  const Slots& of = slots;  // the calling thread's, also in the workers

  const int inner_panels = static_cast<int>(panels(inter));
  const int inner_tasks = static_cast<int>(of.chosen.size()) * inner_panels;
  pool.run(inner_tasks, [&](int task, int worker) {
    const int expert = of.chosen[task / inner_panels], panel = task % inner_panels;
    float* gate = static_cast<float*>(pool.scratch(worker, 2 * kChunk * kPanel * sizeof(float)));
    float* up = gate + kChunk * kPanel;
    const int following = std::min<int>(task + 1, inner_tasks - 1);
    const uint8_t* next = experts.gate(of.chosen[following / inner_panels], following % inner_panels);
    for (int slot = of.begin[expert]; slot < of.begin[expert + 1]; slot += kChunk) {
      const int n = std::min(kChunk, of.begin[expert + 1] - slot);
      multiply<F>(inputs + slot, n, experts.gate(expert, panel), hidden, gate, experts.up(expert, panel));
      multiply<F>(inputs + slot, n, experts.up(expert, panel), hidden, up, next);
      for (int row = 0; row < n; ++row) {
        swiglu(gate + row * kPanel, up + row * kPanel, gate + row * kPanel);
        convert(gate + row * kPanel, h + (slot + row) * h_stride + panel * kPanel, kPanel);
      }
    }
  });

  const A* const* hiddens = operands<F>(pool, h, tokens * k, h_stride, inner_copy, h_rows).data();
  const int outer_panels = static_cast<int>(panels(hidden)), group = panels_together(pool, outer_panels, tokens);
  pool.run((outer_panels + group - 1) / group, [&](int task, int worker) {
    const int begin = task * group, end = std::min(begin + group, outer_panels);
    const int64_t sums_of_panel = tokens * kPanel;
    float* c = static_cast<float*>(pool.scratch(worker, (kChunk * kPanel + group * sums_of_panel) * sizeof(float)));
    float* sums = c + kChunk * kPanel;  // [group][tokens][64]
    memset(sums, 0, group * sums_of_panel * sizeof(float));
    for (size_t i = 0; i < of.chosen.size(); ++i) {
      const int expert = of.chosen[i], after = of.chosen[std::min(i + 1, of.chosen.size() - 1)];
      for (int panel = begin; panel < end; ++panel) {
        const uint8_t* next = panel + 1 < end ? experts.down(expert, panel + 1) : experts.down(after, begin);
        for (int slot = of.begin[expert]; slot < of.begin[expert + 1]; slot += kChunk) {
          const int n = std::min(kChunk, of.begin[expert + 1] - slot);
          multiply<F>(hiddens + slot, n, experts.down(expert, panel), inter, c, next);
          for (int row = 0; row < n; ++row) {
            float* sum = sums + (panel - begin) * sums_of_panel + of.token[slot + row] * kPanel;
            const vf score = splat(of.score[slot + row]);
            for (int i = 0; i < kPanel; i += W) store(sum + i, load(c + row * kPanel + i) * score + load(sum + i));
          }
        }
      }
    }
    for (int panel = begin; panel < end; ++panel, sums += sums_of_panel) {
      const int64_t width = std::min<int64_t>(kPanel, hidden - panel * kPanel);
      for (int64_t token = 0; token < tokens; ++token)
        convert(sums + token * kPanel, y + token * hidden + panel * kPanel, width);
    }
  });
  return 0;
}

}  // namespace

// x: [tokens, hidden], y the same, both bfloat16 or both float32; ids, scores: [tokens, k]. Returns 1, and leaves y
// as it was, where an id is not in [0, experts).
FB_API int64_t fb_moe_ffn(Pool* pool, const uint8_t* packed, int64_t format, int64_t experts, int64_t hidden,
                          int64_t inter, int64_t is_bf16, int64_t tokens, int64_t k, const void* x, const int64_t* ids,
                          const float* scores, void* y) {
  return with_format(static_cast<Format>(format), [&](auto f) {
    const Experts<decltype(f)> weights{packed, {experts, hidden, inter}};
    if (is_bf16)
      return run(*pool, weights, tokens, k, static_cast<const bf16*>(x), ids, scores, static_cast<bf16*>(y));
    return run(*pool, weights, tokens, k, static_cast<const float*>(x), ids, scores, static_cast<float*>(y));
  });
}
