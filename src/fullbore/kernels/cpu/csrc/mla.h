// Multi-head latent attention with kv_b absorbed, for one arithmetic A and one type of activations In.
//
// Three steps over one buffer of rows (token, head): queries times W_UK become queries on cache rows; attention
// puts each row's mixed latents in its place; those times W_UV are the output. Heads are padded to a multiple of
// kGroup, so that a group of rows belongs to one token.
#pragma once
#include <algorithm>
#include <vector>

#include "cache_row.h"
#include "pool.h"
#include "projections.h"
#include "rows.h"
#include "softmax_blocks.h"
#include "workspace.h"

namespace fullbore::attention {

// One request's new tokens: it has `first` keys before them.
struct Span {
  const int32_t* pages;
  int first, tokens;
};

template <class In>
struct Inputs {
  const In* q;  // rows of heads of nope + rope values
  int64_t q_token, q_head;
  const char* cache;  // [pages][page_size] rows
  int page_size;
  In* out;  // [tokens][heads * v]
};

template <class A, class In>
class Mla {
  using T = typename A::T;
  static constexpr int P = A::kPair;

 public:
  Mla(Pool& pool, const MlaWeights& w, const Inputs<In>& in)
      : pool_(pool), w_(w), in_(in), projections_(pool, w), heads_(up(w.heads, kGroup)), width_(w.latent + w.rope),
        values_(up(w.latent, kValueStep)), pitch_(up(std::max(width_, up(w.latent, kPanel)), kPanel)),
        cached_{w.latent, w.rope, w.kv_bits}, cached_bytes_(cached_.template bytes<In>()),
        direct_(std::is_same_v<In, T> && cached_.template as_activations<In>() && width_ % P == 0 &&
                w.latent % kValueStep == 0) {}

  // Tokens at once: their rows stay within some tens of megabytes.
  int most_tokens() const { return std::max<int64_t>(1, (96 << 20) / (int64_t{heads_} * pitch_ * sizeof(T))); }

  // `token`: of the inputs, the first of the spans'.
  void run(const std::vector<Span>& spans, int token) {
    int tokens = 0;
    tiles_.clear();
    for (const Span& span : spans) {
      const int rows = span.tokens * heads_;
      for (int r = 0; r < rows; r += kRows) {
        const int64_t row = int64_t{tokens} * heads_ + r;
        tiles_.push_back({span.pages, row, std::min(kRows, rows - r), r, span.first, heads_});
      }
      tokens += span.tokens;
    }
    int lanes = 0, blocks = 0;
    for (const Tile& tile : tiles_) {
      lanes = std::max(lanes, tile.lanes());
      blocks = std::max(blocks, tile.blocks());
    }
    const int count = tiles_.size(), threads = pool_.threads();
    const bool whole = count >= 4 * threads || blocks == 1 || threads == 1;
    const int wave = (std::max(64, 8 * threads) + count - 1) / count;  // blocks of a tile that are in memory

    Workspace& space = Workspace::mine();
    const size_t row_count = size_t(tokens) * heads_ * pitch_;
    const size_t query_count = size_t(count) * pitch_ * lanes;
    const size_t state_floats = State::floats(lanes, values_);
    const size_t parts = size_t(count) * std::min(wave, blocks);
    size_t bytes = Workspace::bytes_for<T>(row_count);
    if (!whole)
      bytes += Workspace::bytes_for<T>(query_count) +
               Workspace::bytes_for<float>((count + parts) * state_floats + 2 * parts * lanes);
    space.reserve(bytes);
    const Rows<T> rows{space.take<T>(row_count), heads_, pitch_};
    rows_ = rows.memory;

    const float scale = w_.scale * query_scale(A{});
    projections_.absorb(in_.q + token * in_.q_token, in_.q_token, in_.q_head, tokens, scale, rows);
    if (whole) {
      deal();
      pool_.run(count, [&](int task, int worker) {
        attend(tiles_[task], task + 1 < count ? &tiles_[task + 1] : nullptr, worker);
      });
    } else {
      T* const queries = space.take<T>(query_count);
      float* const floats = space.take<float>((count + parts) * state_floats + 2 * parts * lanes);
      attend_in_waves(queries, floats, lanes, blocks, std::min(wave, blocks));
    }
    projections_.expand(rows, tokens, in_.out + int64_t{token} * w_.heads * w_.v);
  }

 private:
  // Longest first, so that no thread starts a long one when the others are done; dealt out, since a thread takes
  // consecutive tasks; the tiles of one token to one thread, since they read the same keys.
  void deal() {
    std::stable_sort(tiles_.begin(), tiles_.end(),
                     [](const Tile& a, const Tile& b) { return a.blocks() > b.blocks(); });
    const size_t together = (heads_ + kRows - 1) / kRows, step = together * pool_.threads();
    std::vector<Tile> dealt;
    dealt.reserve(tiles_.size());
    for (size_t hand = 0; hand < step; hand += together)
      for (size_t first = hand; first < tiles_.size(); first += step)
        for (size_t i = first; i < std::min(first + together, tiles_.size()); ++i) dealt.push_back(tiles_[i]);
    tiles_.swap(dealt);
  }

  T* row(int64_t index) const { return rows_ + index * pitch_; }

  // What a worker has while it attends: the tile's queries (unless shared), a block, its keys where copied.
  struct Bench {
    Block<A> block;
    T* queries;
    T* copies;
    float* state;
  };

  Bench bench(int worker) {
    const size_t query = size_t(pitch_) * kRows, copy = size_t(pitch_) * kKeys, scores = kKeyRoom * kRows;
    const size_t floats = State::floats(kRows, values_) + scores;
    const size_t values = query + copy + scores + pitch_;
    float* const f = static_cast<float*>(pool_.scratch(worker, floats * 4 + values * sizeof(T)));
    T* const t = reinterpret_cast<T*>(f + floats);
    T* const nothing = t + query + copy + scores;
    memset(nothing, 0, pitch_ * sizeof(T));
    Block<A> block{t, up(width_, P) / P, values_, nothing, f, t + query + copy};
    return {block, t, t + query, f + scores};
  }

  // One thread takes all blocks of a tile, folding each as it comes. `after`: what it will probably take next.
  void attend(const Tile& tile, const Tile* after, int worker) {
    Bench b = bench(worker);
    pack(tile, b.queries);
    const State state = State::at(b.state, tile.lanes());
    const T* keys[2][kKeyRoom];
    const int blocks = tile.blocks();
    int n = locate(tile, 0, b, keys[0]);
    for (int i = 0; i < blocks; ++i) {
      const bool last = i + 1 == blocks;
      const Tile* const then = last ? after : &tile;
      const T** const next = keys[(i + 1) % 2];
      const int found = then ? locate(*then, last ? 0 : (i + 1) * kKeys, b, next) : 0;
      decode(keys[i % 2], n, b);
      b.block.run(tile, keys[i % 2], i * kKeys, n, i == 0, state, then ? next : nullptr);
      n = found;
    }
    finish(tile, state, 0, values_);
  }

  // Few tiles: all threads compute blocks, `wave` of each tile at a time, and then fold them in order.
  void attend_in_waves(T* queries, float* floats, int lanes, int blocks, int wave) {
    const int count = tiles_.size();
    const size_t size = State::floats(lanes, values_), query = size_t(pitch_) * lanes;
    float* const parts = floats + count * size;
    float* const fades = parts + size_t(count) * wave * size;
    float* const gains = fades + size_t(count) * wave * lanes;
    pool_.run(count, [&](int task, int) { pack(tiles_[task], queries + task * query); });
    for (int from = 0; from < blocks; from += wave) {
      pool_.run(count * wave, [&](int task, int worker) {
        const Tile& tile = tiles_[task / wave];
        const int i = from + task % wave;
        if (i >= tile.blocks()) return;
        Bench b = bench(worker);
        b.block.queries = queries + task / wave * query;
        const T *keys[kKeyRoom], *next[kKeyRoom];
        const int n = locate(tile, i * kKeys, b, keys);
        const int after = task + 1;  // what this worker will probably take next
        const bool fetch = after < count * wave && from + after % wave < tiles_[after / wave].blocks();
        if (fetch) locate(tiles_[after / wave], (from + after % wave) * kKeys, b, next);
        decode(keys, n, b);
        const State state = State::at(parts + task * size, tile.lanes());
        b.block.run(tile, keys, i * kKeys, n, true, state, fetch ? next : nullptr);
      });
      for (int task = 0; task < count * wave; ++task) {
        const Tile& tile = tiles_[task / wave];
        const int i = from + task % wave, each = tile.lanes();
        if (i >= tile.blocks()) continue;
        const State state = State::at(floats + task / wave * size, each), part = State::at(parts + task * size, each);
        if (i == 0) memcpy(state.largest, part.largest, 2 * each * sizeof(float));
        else
          for (int at = 0; at < each; at += W)
            fold_scores<A>(state, at, load(part.largest + at), load(part.total + at), fades + task * lanes,
                           gains + task * lanes);
      }
      const int steps = values_ / kValueStep;
      pool_.run(count * steps, [&](int task, int) {
        const Tile& tile = tiles_[task / steps];
        const int each = tile.lanes(), end = std::min(wave, tile.blocks() - from);
        const int column = task % steps * kValueStep, length = kValueStep * each;
        const State state = State::at(floats + task / steps * size, each);
        for (int i = 0; i < end; ++i) {
          const size_t at = size_t(task / steps) * wave + i;
          const float* const part = State::at(parts + at * size, each).output + column * each;
          float* const sum = state.output + column * each;
          if (from + i == 0) {
            memcpy(sum, part, length * sizeof(float));
            continue;
          }
          for (int k = 0; k < length; k += W) {
            const int r = k / kColumns % each;
            const float fade = fades[at * lanes + r], gain = gains[at * lanes + r];
            store(sum + k, fold(load(sum + k), splat(fade), load(part + k), splat(gain)));
          }
        }
        if (from + wave >= tile.blocks() && end > 0) finish(tile, state, column, column + kValueStep);
      });
    }
  }

  // A tile's queries, from rows to [pairs][lanes][P].
  void pack(const Tile& tile, T* to) const {
    struct Pair {
      T value[P];
    };
    const int lanes = tile.lanes(), pairs = up(width_, P) / P;
    Pair* at = reinterpret_cast<Pair*>(to);
    for (int k = 0; k < pairs; ++k, at += lanes) {
      const Pair* from = reinterpret_cast<const Pair*>(row(tile.row)) + k;
      for (int r = 0; r < tile.rows; ++r, from += pitch_ / P) at[r] = *from;
      for (int r = tile.rows; r < lanes; ++r) at[r] = Pair{};
    }
  }

  // Where the rows of a block's keys lie in the cache; returns how many there are.
  int locate(const Tile& tile, int begin, const Bench& b, const T** keys) const {
    const int n = std::min(kKeys, tile.keys() - begin);
    for (int i = 0; i < n;) {
      const int page = (begin + i) / in_.page_size, offset = begin + i - page * in_.page_size;
      const char* from = in_.cache + (int64_t{tile.pages[page]} * in_.page_size + offset) * cached_bytes_;
      for (const int end = std::min(n, i + in_.page_size - offset); i < end; ++i, from += cached_bytes_)
        keys[i] = reinterpret_cast<const T*>(from);
    }
    std::fill(keys + n, keys + kKeyRoom, b.block.nothing);
    return n;
  }

  // Rows as they are multiplied, in place of what `locate` found, unless they lie so in the cache.
  void decode(const T** keys, int n, const Bench& b) const {
    if (direct_) return;
    for (int i = 0; i < n; ++i) {
      T* const copy = b.copies + i * pitch_;
      cached_.template decode<In>(reinterpret_cast<const char*>(keys[i]), copy);
      for (int k = width_; k < pitch_; ++k) copy[k] = T{};
      keys[i] = copy;
    }
  }

  // Columns [from, to) of the state, divided by the sum of weights, in place of the tile's queries.
  void finish(const Tile& tile, const State& state, int from, int to) const {
    const int lanes = tile.lanes();
    for (int r = 0; r < tile.rows; ++r) {
      const float gain = 1.0f / state.total[r];
      for (int d = from; d < to; d += kColumns)
        put(row(tile.row + r) + d, state.output + (d / kColumns * lanes + r) * kColumns, kColumns, gain);
    }
  }

  Pool& pool_;
  const MlaWeights& w_;
  const Inputs<In>& in_;
  const Projections<T> projections_;
  const int heads_, width_, values_, pitch_;
  const CacheRow cached_;
  const int64_t cached_bytes_;
  const bool direct_;  // keys are multiplied as they lie in the cache
  std::vector<Tile> tiles_;
  T* rows_ = nullptr;
};

}  // namespace fullbore::attention
