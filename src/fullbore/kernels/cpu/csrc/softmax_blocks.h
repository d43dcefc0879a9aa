// Attention of some query rows to the keys of one request, by blocks of keys.
//
// Each block is a softmax of its own (its largest score, its sum, its weighted values); blocks are folded in
// order by one formula (online softmax, Milakov and Gimelshein 2018). Since a block starts at a multiple of
// kKeys whatever the call looks like, a row's bits do not depend on who else is in the call, on how many threads
// there are, or on whether one thread folds the blocks as it goes or many compute them first.
#pragma once
#include <algorithm>

#include "products.h"

namespace fullbore::attention {

constexpr int kKeys = 64;        // of a block
constexpr int kKeyRoom = kKeys + kRowTail;
constexpr int kRows = 64;        // of a tile: (token, head) pairs
constexpr int kGroup = 8;        // rows that belong to one token
constexpr int kColumns = 2 * W;  // of the values that `mix_tile` makes at once

#if defined(__AVX512BF16__)
// 2^x to 3e-6 relative, enough for weights that become bfloat16; 1 at 0, 0 far below, nan for nan.
static inline vf exp2_short(vf x) {
  constexpr __mmask16 all = 0xffff;  // masked forms, since gcc 12 warns of the others
  const __m512 held = reinterpret_cast<__m512>(max(splat(-200.0f), x));  // in this order nan passes
  const __m512 whole = _mm512_maskz_roundscale_ps(all, held, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const vf r = reinterpret_cast<vf>(held) - reinterpret_cast<vf>(whole);
  vf p = splat(9.582853e-3f);  // minimax on [-1/2, 1/2], through 1 at 0
  p = p * r + 5.5906425e-2f;
  p = p * r + 2.4024099e-1f;
  p = p * r + 6.9312419e-1f;
  p = p * r + 1.0f;
  return reinterpret_cast<vf>(_mm512_maskz_scalef_ps(all, reinterpret_cast<__m512>(p), whole));
}
static inline vf power(Bf16Dots, vf x) { return exp2_short(x); }
static inline float query_scale(Bf16Dots) { return 1.44269504f; }  // scores in powers of two
#endif
static inline vf power(Fp32Dots, vf x) { return exp(x); }
static inline float query_scale(Fp32Dots) { return 1.0f; }

// Rows of one request, consecutive (token, head) pairs: row r sees `visible(r)` keys.
struct Tile {
  const int32_t* pages;
  int64_t row;  // first, in the buffer of queries
  int rows;     // a multiple of kGroup, at most kRows
  int before;   // rows of the request's earlier tokens and heads
  int first;    // keys before the request's first token
  int per_token;

  int visible(int r) const { return first + (before + r) / per_token + 1; }
  int lanes() const { return up(rows, W); }
  int keys() const { return visible(rows - 1); }
  int blocks() const { return (keys() + kKeys - 1) / kKeys; }
};

// The running softmax of a tile. `output`: [latent / kColumns][lanes][kColumns]; the others: [lanes].
struct State {
  float* output;
  float* largest;
  float* total;

  static int64_t floats(int lanes, int latent) { return static_cast<int64_t>(lanes) * (latent + 2); }
  static State at(float* memory, int lanes) { return {memory + 2 * lanes, memory, memory + lanes}; }
};

// The sum is rounded the same way wherever this is inlined: the barrier leaves one product to fuse.
static inline vf fold(vf sum, vf fade, vf part, vf gain) {
  vf scaled = part * gain;
#if defined(__x86_64__)
  asm("" : "+x"(scaled));
#elif defined(__aarch64__)
  asm("" : "+w"(scaled));
#endif
  return sum * fade + scaled;
}

// Folds a block's largest score and sum into the tile's at lane `at`, and says what its output is to be
// multiplied by (`fade` the sum so far, `gain` the block).
template <class A>
static inline void fold_scores(const State& state, int at, vf largest, vf total, float* fade, float* gain) {
  const vf before = load(state.largest + at), after = max(before, largest);
  const vf f = power(A{}, before - after), g = power(A{}, largest - after);
  store(state.largest + at, after);
  store(state.total + at, fold(load(state.total + at), f, total, g));
  store(fade + at, f);
  store(gain + at, g);
}

// What a worker needs beside the state. `scores`: [kKeyRoom][kRows].
template <class A>
struct Block {
  using T = typename A::T;
  const T* queries;  // [pairs][lanes][kPair]
  int pairs;         // of a cache row: its width / kPair
  int latent;        // a multiple of kColumns
  const T* nothing;  // a row of zeros
  float* scores;
  T* weights;  // [kKeys / kPair][lanes][kPair]

  // One block of a tile: keys [rows of `keys`, `n` of them] from position `begin` on. `fresh`: the state
  // is this block's alone; otherwise the block is folded in. `next`: rows to fetch meanwhile, or null.
  void run(const Tile& tile, const T* const* keys, int begin, int n, bool fresh, State state,
           const T* const* next) const {
    const int lanes = tile.lanes();
    dots<A>(keys, n, queries, lanes, lanes, pairs, scores, lanes);
    alignas(64) float fade[kRows], gain[kRows];
    alignas(64) int32_t visible[kRows];
    for (int r = 0; r < lanes; ++r) visible[r] = tile.visible(r < tile.rows ? r : tile.rows - 1) - begin;
    for (int at = 0; at < lanes; at += W) softmax(at, lanes, visible, n, fresh, state, fade, gain);
    for (int d = 0; d < latent; d += kColumns) {
      for (int group = 0; group < tile.rows; group += kGroup) {
        const int sees = std::clamp<int>(visible[group], 0, n);  // one token's rows see alike
        const T* own[kKeys];
        const T* const* rows = keys;
        if (sees % A::kPair) {  // a later key is no part of this row's sum, whatever it holds
          memcpy(own, keys, sizeof own);
          own[sees] = nothing;
          rows = own;
        }
        mix(rows, sees, group, lanes, d, fresh, state, fade, gain, ahead(next, tile, group, d));
      }
    }
  }

 private:
  // The next block's share of one `mix`, a few lines (of 64 bytes) with each pair: a burst of them would stall.
  struct Ahead {
    const T* const* key;
    const T* const* end;
    int column, extra;  // `extra`: a second column, or -1
    int step;

    void operator()() {
      for (int i = 0; i < step && key < end; ++i, ++key) {
        __builtin_prefetch(*key + column, 0, 2);
        if (extra >= 0) __builtin_prefetch(*key + extra, 0, 2);
      }
    }
  };

  void softmax(int at, int lanes, const int32_t* visible, int n, bool fresh, State state, float* fade,
               float* gain) const {
    vi sees;
    memcpy(&sees, visible + at, sizeof sees);
    const int all = std::clamp<int>(visible[at], 0, n);  // never falls from row to row
    vf* const s = reinterpret_cast<vf*>(scores + at);
    const int step = lanes / W;
    const vf none = splat(-INFINITY);
    vf largest = none;
    for (int t = 0; t < all; ++t) largest = max(largest, s[t * step]);
    for (int t = all; t < n; ++t) largest = max(largest, sees > t ? s[t * step] : none);
    vf total = vf{};
    for (int t = 0; t < n; t += A::kPair) {
      vf w[A::kPair];
      for (int i = 0; i < A::kPair; ++i) {
        w[i] = power(A{}, s[(t + i) * step] - largest);
        if (t + i >= all) w[i] = (sees > t + i) & (vi{} + (t + i < n ? -1 : 0)) ? w[i] : vf{};
        total += w[i];
      }
      A::write(weights + (t / A::kPair * lanes + at) * A::kPair, w);
    }
    if (!fresh) return fold_scores<A>(state, at, largest, total, fade, gain);
    store(state.largest + at, largest);
    store(state.total + at, total);
  }

  void mix(const T* const* rows, int sees, int group, int lanes, int d, bool fresh, State state, const float* fade,
           const float* gain, Ahead next) const {
    constexpr int R = W == 16 ? 8 : 4;
    for (int r = group; r < group + kGroup; r += R) {
      float* const out = state.output + (d / kColumns * lanes + r) * kColumns;
      const int pairs = (sees + A::kPair - 1) / A::kPair;
      const T* const w = weights + r * A::kPair;
      if (fresh) {
        mix_tile<A, R>(rows, pairs, w, lanes, d, next,
                       [&](int i, int half, vf sum) { store(out + i * kColumns + half * W, sum); });
      } else {
        mix_tile<A, R>(rows, pairs, w, lanes, d, next, [&](int i, int half, vf sum) {
          float* const o = out + i * kColumns + half * W;
          store(o, fold(load(o), splat(fade[r + i]), sum, splat(gain[r + i])));
        });
      }
    }
  }

  // Step d of the columns fetches its own line of each key, and one of those beyond the latents.
  Ahead ahead(const T* const* next, const Tile& tile, int group, int d) const {
    if (!next) return {nullptr, nullptr, 0, -1, 0};
    constexpr int kLine = 64 / sizeof(T);
    const int groups = tile.rows / kGroup, g = group / kGroup, beyond = latent + d / kColumns * kLine;
    const bool more = beyond < pairs * A::kPair;
    return {next + kKeys * g / groups, next + kKeys * (g + 1) / groups, d, more ? beyond : -1, groups == 1 ? 2 : 1};
  }
};

}  // namespace fullbore::attention
