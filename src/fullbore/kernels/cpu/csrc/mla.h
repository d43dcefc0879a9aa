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
#include "softmax_blocks.h"
#include "workspace.h"

namespace fullbore::attention {

constexpr int kValueStep = 32;   // latents are padded to this: a multiple of kColumns on every machine
constexpr int kTokenChunk = 64;  // tokens that a task of the projections takes
constexpr int kChunkRoom = kTokenChunk + kRowTail;

// As packed by the Python side. P: kPair of the arithmetic; sizes rounded up, zeros where nothing is.
struct MlaWeights {
  const void* key;    // [heads][latent / kPanel][nope / P][kPanel][P]
  const void* value;  // [heads][v / kPanel][latent / P][kPanel][P], latents in the order of A::columns
  int32_t heads, nope, rope, v, latent;
  int32_t kv_bits;  // as in CacheRow
  float scale;      // of the softmax
};

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

template <class A, class In>
class Mla {
  using T = typename A::T;
  static constexpr int P = A::kPair;

 public:
  Mla(Pool& pool, const MlaWeights& w, const Inputs<In>& in)
      : pool_(pool), w_(w), in_(in), heads_(up(w.heads, kGroup)), width_(w.latent + w.rope),
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
    rows_ = space.take<T>(row_count);

    absorb(token, tokens);
    if (whole) {
      // Longest first, so that no thread starts a long one when the others are done.
      std::stable_sort(tiles_.begin(), tiles_.end(),
                       [](const Tile& a, const Tile& b) { return a.blocks() > b.blocks(); });
      pool_.run(count, [&](int task, int worker) { attend(tiles_[task], worker); });
    } else {
      T* const queries = space.take<T>(query_count);
      float* const floats = space.take<float>((count + parts) * state_floats + 2 * parts * lanes);
      attend_in_waves(queries, floats, lanes, blocks, std::min(wave, blocks));
    }
    expand(token, tokens);
  }

 private:
  T* row(int64_t index) const { return rows_ + index * pitch_; }

  // Queries on cache rows, scaled: [W_UK^T q_nope, q_rope] into the buffer of rows.
  void absorb(int token, int tokens) {
    const int chunks = (tokens + kTokenChunk - 1) / kTokenChunk, inner = up(w_.nope, P);
    const float scale = w_.scale * query_scale(A{});
    pool_.run(chunks * heads_, [&](int task, int worker) {
      const int head = task % heads_, begin = task / heads_ * kTokenChunk;
      const int n = std::min(kTokenChunk, tokens - begin);
      if (head >= w_.heads) {
        for (int i = 0; i < n; ++i) memset(row(int64_t{begin + i} * heads_ + head), 0, pitch_ * sizeof(T));
        return;
      }
      char* const memory = static_cast<char*>(pool_.scratch(worker, kChunkRoom * (kPanel * 4 + inner * sizeof(T))));
      float* const product = reinterpret_cast<float*>(memory);
      T* const copies = reinterpret_cast<T*>(product + kChunkRoom * kPanel);
      const In* const q = in_.q + (token + begin) * in_.q_token + head * in_.q_head;
      const T* left[kChunkRoom];
      for (int i = 0; i < kChunkRoom; ++i) {
        const In* const from = q + std::min(i, n - 1) * in_.q_token;
        if constexpr (std::is_same_v<In, T>) {
          left[i] = from;
          if (w_.nope % P == 0) continue;
        }
        T* const copy = copies + i * inner;
        left[i] = copy;
        convert(from, copy, w_.nope);
        if (inner > w_.nope) copy[w_.nope] = T{};
      }
      const T* panel = static_cast<const T*>(w_.key) + int64_t{head} * up(w_.latent, kPanel) * inner;
      for (int column = 0; column < w_.latent; column += kPanel, panel += kPanel * inner) {
        dots<A>(left, n, panel, kPanel, kPanel, inner / P, product, kPanel);
        for (int i = 0; i < n; ++i)
          put(row(int64_t{begin + i} * heads_ + head) + column, product + i * kPanel, kPanel, scale);
      }
      for (int i = 0; i < n; ++i) {
        T* const to = row(int64_t{begin + i} * heads_ + head) + w_.latent;
        const In* const rope = q + i * in_.q_token + w_.nope;
        for (int k = 0; k < w_.rope; ++k) set(to[k], widened(rope[k]) * scale);
        if (width_ % P) set(to[w_.rope], 0.0f);
      }
    });
  }

  // Mixed latents times W_UV into the output.
  void expand(int token, int tokens) {
    const int chunks = (tokens + kTokenChunk - 1) / kTokenChunk;
    pool_.run(chunks * w_.heads, [&](int task, int worker) {
      const int head = task % w_.heads, begin = task / w_.heads * kTokenChunk;
      const int n = std::min(kTokenChunk, tokens - begin);
      float* const product = static_cast<float*>(pool_.scratch(worker, kChunkRoom * kPanel * 4));
      const T* left[kChunkRoom];
      for (int i = 0; i < kChunkRoom; ++i) left[i] = row(int64_t{begin + std::min(i, n - 1)} * heads_ + head);
      const T* panel = static_cast<const T*>(w_.value) + int64_t{head} * up(w_.v, kPanel) * values_;
      for (int column = 0; column < w_.v; column += kPanel, panel += kPanel * values_) {
        dots<A>(left, n, panel, kPanel, kPanel, values_ / P, product, kPanel);
        const int columns = std::min(kPanel, w_.v - column);
        for (int i = 0; i < n; ++i) {
          In* const out = in_.out + (int64_t{token + begin + i} * w_.heads + head) * w_.v + column;
          put(out, product + i * kPanel, columns, 1.0f);
        }
      }
    });
  }

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

  // One thread takes all blocks of a tile, folding each as it comes.
  void attend(const Tile& tile, int worker) {
    Bench b = bench(worker);
    pack(tile, b.queries);
    const State state = State::at(b.state, tile.lanes());
    const T* keys[2][kKeyRoom];
    const int blocks = tile.blocks();
    int n = locate(tile, 0, b, keys[0]);
    for (int i = 0; i < blocks; ++i) {
      const T** const next = i + 1 < blocks ? keys[(i + 1) % 2] : nullptr;
      const int after = next ? locate(tile, (i + 1) * kKeys, b, next) : 0;
      decode(keys[i % 2], n, b);
      b.block.run(tile, keys[i % 2], i * kKeys, n, i == 0, state, next);
      n = after;
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
        const T* keys[kKeyRoom];
        const int n = locate(tile, i * kKeys, b, keys);
        decode(keys, n, b);
        b.block.run(tile, keys, i * kKeys, n, true, State::at(parts + task * size, tile.lanes()), nullptr);
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
  const int heads_, width_, values_, pitch_;
  const CacheRow cached_;
  const int64_t cached_bytes_;
  const bool direct_;  // keys are multiplied as they lie in the cache
  std::vector<Tile> tiles_;
  T* rows_ = nullptr;
};

}  // namespace fullbore::attention
