// The experts of a layer: y[token] = sum over those that the token chose of score * down(silu(gate x) * up x), and the
// same of the shared expert, which every token has with a score of 1.
//
// Two passes. First every expert's hidden values, a task for each 64 of them; then the outputs, a task for some panels
// of 64, which walks the experts in order: one sum for each output in one order, and no task waits for another.
// Consecutive tasks, and the panels within one, read on where the last one stopped.
#include "api.h"
#include "panel.h"
#include "rows.h"

using namespace fullbore;

namespace {

struct Sizes {
  int64_t experts, hidden, inter;
  int64_t shared;  // width of the shared expert, which follows the others in memory; 0 where there is none
  int64_t first, of;  // the router's number of the first expert, and how many it chooses from
};

// Gate and up panels in turn, then the panels of down.
template <class F>
struct Expert {
  const uint8_t* memory;
  int64_t width;
  size_t in_step, out_step;

  Expert(const uint8_t* memory, int64_t hidden, int64_t width)
      : memory(memory), width(width), in_step(blocks(hidden) * F::kBlockBytes), out_step(blocks(width) * F::kBlockBytes) {}

  const uint8_t* gate(int64_t panel) const { return memory + 2 * panel * in_step; }
  const uint8_t* up(int64_t panel) const { return gate(panel) + in_step; }
  const uint8_t* down(int64_t panel) const { return gate(panels(width)) + panel * out_step; }
};

// The rows [begin, end) of `slots` that one expert computes.
template <class F>
struct Part {
  Expert<F> expert;
  int begin, end;
};

// (token, choice) pairs by expert, within one in the order of tokens; then each token for the shared expert.
// Pairs of experts that are elsewhere have no slot.
struct Slots {
  std::vector<int> begin;  // [experts + 1]
  std::vector<int> token;  // [slots]
  std::vector<float> score;

  // False where an id is no expert.
  bool fill(const Sizes& sizes, int64_t tokens, int64_t k, const int64_t* ids, const float* scores) {
    const int64_t experts = sizes.experts, pairs = tokens * k;
    begin.assign(experts + 1, 0);
    for (int64_t i = 0; i < pairs; ++i) {
      if (ids[i] < 0 || ids[i] >= sizes.of) return false;
      const int64_t expert = ids[i] - sizes.first;
      if (expert >= 0 && expert < experts) ++begin[expert + 1];
    }
    for (int64_t expert = 0; expert < experts; ++expert) begin[expert + 1] += begin[expert];
    const int64_t chosen = begin[experts], all = chosen + (sizes.shared ? tokens : 0);
    token.resize(all);
    score.resize(all);
    next.assign(begin.begin(), begin.end() - 1);
    for (int64_t i = 0; i < pairs; ++i) {
      const int64_t expert = ids[i] - sizes.first;
      if (expert < 0 || expert >= experts) continue;
      const int slot = next[expert]++;
      token[slot] = static_cast<int>(i / k);
      score[slot] = scores[i];
    }
    for (int64_t slot = chosen; slot < all; ++slot) {
      token[slot] = static_cast<int>(slot - chosen);
      score[slot] = 1.0f;
    }
    return true;
  }

 private:
  std::vector<int> next;
};

// The experts that have rows, in order, the shared one last.
template <class F>
void choose(const uint8_t* memory, const Sizes& sizes, const Slots& slots, std::vector<Part<F>>& parts) {
  parts.clear();
  const auto [experts, hidden, inter, shared, at, of] = sizes;
  const size_t bytes = 2 * panels(inter) * blocks(hidden) * F::kBlockBytes + panels(hidden) * blocks(inter) * F::kBlockBytes;
  for (int64_t expert = 0; expert < experts; ++expert)
    if (slots.begin[expert] < slots.begin[expert + 1])
      parts.push_back({{memory + expert * bytes, hidden, inter}, slots.begin[expert], slots.begin[expert + 1]});
  const int all = static_cast<int>(slots.token.size());
  if (slots.begin[experts] < all) parts.push_back({{memory + experts * bytes, hidden, shared}, slots.begin[experts], all});
}

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
int64_t run(Pool& pool, const uint8_t* memory, const Sizes& sizes, int64_t tokens, int64_t k, const X* x,
            const int64_t* ids, const float* scores, X* y) {
  using A = Operand<F, X>;
  static thread_local Slots slots;
  static thread_local Buffer copy, inner, inner_copy, shared_copy;
  static thread_local std::vector<const A*> token_rows, in_rows, h_rows, shared_rows;
  static thread_local std::vector<Part<F>> chosen;
  const auto [count, hidden, inter, shared, at, among] = sizes;
  if (!slots.fill(sizes, tokens, k, ids, scores)) return 1;
  if (!tokens) return 0;
  choose(memory, sizes, slots, chosen);

  const auto& rows = operands<F>(pool, x, tokens, hidden, copy, token_rows);
  const int64_t all = static_cast<int64_t>(slots.token.size()), chosen_rows = slots.begin[count];
  const int64_t inner_panels = panels(inter), shared_panels = panels(shared);
  const int64_t h_stride = inner_panels * kPanel, shared_stride = shared_panels * kPanel;
  Kept<F, X>* const h = inner.of<Kept<F, X>>(chosen_rows * h_stride + tokens * shared_stride);  // [slots][width]
  const auto h_row = [&](int64_t slot) {
    return slot < chosen_rows ? h + slot * h_stride : h + chosen_rows * h_stride + (slot - chosen_rows) * shared_stride;
  };
  in_rows.resize(all);
  for (int64_t slot = 0; slot < all; ++slot) in_rows[slot] = rows[slots.token[slot]];
  const A* const* inputs = in_rows.data();
  const Slots& of = slots;  // the calling thread's, also in the workers
  const std::vector<Part<F>>& parts = chosen;

  // Tasks of the experts in order, inner_panels of each but the shared one.
  const int64_t routed = static_cast<int64_t>(parts.size()) - (shared ? 1 : 0);
  const int inner_tasks = static_cast<int>(routed * inner_panels + shared_panels);
  const auto part_of = [&](int task) { return std::min<int64_t>(inner_panels ? task / inner_panels : 0, routed); };
  pool.run(inner_tasks, [&](int task, int worker) {
    const int64_t index = part_of(task), panel = task - index * inner_panels;
    const auto& [expert, begin, end] = parts[index];
    const int following = std::min(task + 1, inner_tasks - 1);
    const uint8_t* next = parts[part_of(following)].expert.gate(following - part_of(following) * inner_panels);
    float* gate = static_cast<float*>(pool.scratch(worker, 2 * kChunk * kPanel * sizeof(float)));
    float* up = gate + kChunk * kPanel;
    for (int slot = begin; slot < end; slot += kChunk) {
      const int n = std::min(kChunk, end - slot);
      multiply<F>(inputs + slot, n, expert.gate(panel), hidden, gate, expert.up(panel));
      multiply<F>(inputs + slot, n, expert.up(panel), hidden, up, next);
      for (int row = 0; row < n; ++row) {
        swiglu(gate + row * kPanel, up + row * kPanel, gate + row * kPanel);
        convert(gate + row * kPanel, h_row(slot + row) + panel * kPanel, kPanel);
      }
    }
  });

  operands<F>(pool, h, chosen_rows, h_stride, inner_copy, h_rows);
  if (shared) {
    operands<F>(pool, h_row(chosen_rows), tokens, shared_stride, shared_copy, shared_rows);
    h_rows.insert(h_rows.end(), shared_rows.begin(), shared_rows.end());
  }
  const A* const* hiddens = h_rows.data();
  const int outer_panels = static_cast<int>(panels(hidden)), group = panels_together(pool, outer_panels, tokens);
  pool.run((outer_panels + group - 1) / group, [&](int task, int worker) {
    const int first = task * group, last = std::min(first + group, outer_panels);
    const int64_t sums_of_panel = tokens * kPanel;
    float* c = static_cast<float*>(pool.scratch(worker, (kChunk * kPanel + group * sums_of_panel) * sizeof(float)));
    float* sums = c + kChunk * kPanel;  // [group][tokens][64]
    memset(sums, 0, group * sums_of_panel * sizeof(float));
    for (size_t index = 0; index < parts.size(); ++index) {
      const auto& [expert, begin, end] = parts[index];
      const Expert<F>& after = parts[std::min(index + 1, parts.size() - 1)].expert;
      for (int panel = first; panel < last; ++panel) {
        const uint8_t* next = panel + 1 < last ? expert.down(panel + 1) : after.down(first);
        for (int slot = begin; slot < end; slot += kChunk) {
          const int n = std::min(kChunk, end - slot);
          multiply<F>(hiddens + slot, n, expert.down(panel), expert.width, c, next);
          for (int row = 0; row < n; ++row) {
            float* sum = sums + (panel - first) * sums_of_panel + of.token[slot + row] * kPanel;
            const vf score = splat(of.score[slot + row]);
            for (int i = 0; i < kPanel; i += W) store(sum + i, load(c + row * kPanel + i) * score + load(sum + i));
          }
        }
      }
    }
    for (int panel = first; panel < last; ++panel, sums += sums_of_panel) {
      const int64_t width = std::min<int64_t>(kPanel, hidden - panel * kPanel);
      for (int64_t token = 0; token < tokens; ++token)
        convert(sums + token * kPanel, y + token * hidden + panel * kPanel, width);
    }
  });
  return 0;
}

}  // namespace

// x: [tokens, hidden], y the same, both bfloat16 or both float32; ids, scores: [tokens, k]. `shared`: width of the
// shared expert, or 0. `first`, `of`: the packed experts are these of so many; nothing is added for the others.
// Returns 1, and leaves y as it was, where an id is not in [0, of).
FB_API int64_t fb_moe_ffn(Pool* pool, const uint8_t* packed, int64_t format, int64_t experts, int64_t hidden,
                          int64_t inter, int64_t shared, int64_t first, int64_t of, int64_t is_bf16, int64_t tokens,
                          int64_t k, const void* x, const int64_t* ids, const float* scores, void* y) {
  return with_format(static_cast<Format>(format), [&](auto f) {
    using F = decltype(f);
    const Sizes sizes{experts, hidden, inter, shared, first, of};
    if (is_bf16)
      return run<F>(*pool, packed, sizes, tokens, k, static_cast<const bf16*>(x), ids, scores, static_cast<bf16*>(y));
    return run<F>(*pool, packed, sizes, tokens, k, static_cast<const float*>(x), ids, scores, static_cast<float*>(y));
  });
}
