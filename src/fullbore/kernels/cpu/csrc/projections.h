// W_UK and W_UV, absorbed: from queries to queries on cache rows, and from mixed latents to the output.
//
// Both work on one buffer of rows (token, head), a head and some tokens to a task, so that a head's weights are
// read once for all of them.
#pragma once
#include <algorithm>

#include "panel.h"
#include "pool.h"
#include "products.h"
#include "rows.h"

namespace fullbore::attention {

constexpr int kTokenChunk = 64;  // tokens that a task takes
constexpr int kValueStep = 32;  // latents are padded to this: a multiple of kColumns on every machine

// As packed by the Python side, for each head W_UK^T [latent, nope] and W_UV [v, latents], the latents in the order of
// A::columns and padded to kValueStep with zeros, as panels of matrix.h.
struct MlaWeights {
  const uint8_t* key;
  const uint8_t* value;
  Format format;  // bf16, fp8_block, or fp32 where float32 is computed
  int32_t heads, nope, rope, v, latent;
  int32_t kv_bits;  // as in CacheRow
  float scale;      // of the softmax
};

// The buffer of rows; `heads` may be more than there are.
template <class T>
struct Rows {
  T* memory;
  int heads;
  int pitch;  // values from one row to the next

  T* operator()(int64_t token, int head) const { return memory + (token * heads + head) * pitch; }
};

static inline void put(float* to, const float* from, int n, float scale) {
  for (int i = 0; i < n; ++i) to[i] = from[i] * scale;
}
static inline void put(bf16* to, const float* from, int n, float scale) {
  int i = 0;
  for (; i + W <= n; i += W) store(to + i, load(from + i) * scale);
  for (; i < n; ++i) to[i] = to_bf16(from[i] * scale);
}
static inline void set(float& to, float x) { to = x; }
static inline void set(bf16& to, float x) { to = to_bf16(x); }

template <class T>
class Projections {
 public:
  Projections(Pool& pool, const MlaWeights& w) : pool_(pool), w_(w) {}

  // q: rows of heads of nope + rope values -> `scale` [W_UK^T q_nope, q_rope], and zeros for heads that are none.
  template <class In>
  void absorb(const In* q, int64_t q_token, int64_t q_head, int tokens, float scale, const Rows<T>& rows) const {
    const int inner = up(w_.nope, 2), width = w_.latent + w_.rope;
    const size_t panel_size = panel_bytes(inner);
    run(tokens, rows.heads, kTokenChunk * inner, [&](int head, int begin, int n, float* product, T* copies) {
      if (head >= w_.heads) {
        for (int i = 0; i < n; ++i) memset(rows(begin + i, head), 0, rows.pitch * sizeof(T));
        return;
      }
      const In* const from = q + begin * q_token + head * q_head;
      const T* left[kTokenChunk];
      for (int i = 0; i < n; ++i) {
        if constexpr (std::is_same_v<In, T>) {
          left[i] = from + i * q_token;
          if (w_.nope == inner) continue;
        }
        T* const copy = copies + i * inner;
        left[i] = copy;
        convert(from + i * q_token, copy, w_.nope);
        if (inner > w_.nope) copy[w_.nope] = T{};
      }
      const uint8_t* panel = w_.key + head * panels(w_.latent) * panel_size;
      for (int column = 0; column < w_.latent; column += kPanel, panel += panel_size) {
        multiply_by(panel, left, n, inner, product);
        for (int i = 0; i < n; ++i) put(rows(begin + i, head) + column, product + i * kPanel, kPanel, scale);
      }
      for (int i = 0; i < n; ++i) {
        T* const to = rows(begin + i, head) + w_.latent;
        const In* const rope = from + i * q_token + w_.nope;
        for (int k = 0; k < w_.rope; ++k) set(to[k], widened(rope[k]) * scale);
        if (width % 2) set(to[w_.rope], 0.0f);
      }
    });
  }

  // Rows of mixed latents times W_UV -> out: [tokens][heads * v].
  template <class In>
  void expand(const Rows<T>& rows, int tokens, In* out) const {
    const int inner = up(w_.latent, kValueStep);
    const size_t panel_size = panel_bytes(inner);
    run(tokens, w_.heads, 0, [&](int head, int begin, int n, float* product, T*) {
      const T* left[kTokenChunk];
      for (int i = 0; i < n; ++i) left[i] = rows(begin + i, head);
      const uint8_t* panel = w_.value + head * panels(w_.v) * panel_size;
      for (int column = 0; column < w_.v; column += kPanel, panel += panel_size) {
        multiply_by(panel, left, n, inner, product);
        const int columns = std::min(kPanel, w_.v - column);
        for (int i = 0; i < n; ++i) {
          In* const to = out + (int64_t{begin + i} * w_.heads + head) * w_.v + column;
          put(to, product + i * kPanel, columns, 1.0f);
        }
      }
    });
  }

 private:
  // body(head, first token, tokens, product [kTokenChunk][kPanel], `values` values of scratch)
  template <class Body>
  void run(int tokens, int heads, int values, Body&& body) const {
    const int chunks = (tokens + kTokenChunk - 1) / kTokenChunk;
    pool_.run(chunks * heads, [&](int task, int worker) {
      const int begin = task / heads * kTokenChunk;
      constexpr int kProduct = kTokenChunk * kPanel;
      auto* const product = static_cast<float*>(pool_.scratch(worker, kProduct * 4 + values * sizeof(T)));
      T* const scratch = reinterpret_cast<T*>(product + kProduct);
      body(task % heads, begin, std::min(kTokenChunk, tokens - begin), product, scratch);
    });
  }

  size_t panel_bytes(int inner) const { return fullbore::panel_bytes(w_.format, inner); }

  // `n` rows of `inner` values, an even number, times a panel -> product: [n][kPanel].
  void multiply_by(const uint8_t* panel, const T* const* rows, int n, int inner, float* product) const {
    const uint8_t* const next = panel + panel_bytes(inner);  // tasks follow each other as heads do in memory
    if (w_.format == Format::kFp8Block) return multiply<Fp8Block>(rows, n, panel, inner, product, next);
    if constexpr (std::is_same_v<T, float>)
      if (w_.format == Format::kFp32) return multiply<Fp32>(rows, n, panel, inner, product, next);
    multiply<Bf16>(rows, n, panel, inner, product, next);
  }

  Pool& pool_;
  const MlaWeights& w_;
};

}  // namespace fullbore::attention
