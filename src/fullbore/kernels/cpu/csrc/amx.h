// Rows of bfloat16 x one panel in AMX tiles of 16 rows of 64 bytes: never run on a CPU that has them, since there
// was none at hand; tested with the tiles of amx_emulated.h.
//
// Every row goes through tiles, also a single one, because its bits must not depend on the others. By Intel's
// instruction set reference TDPBF16PS makes two sums for a row and an output, one of the 16 even inputs of a tile and
// one of the odd ones (a fused multiply-add for each, in order, denormals as zero), adds the two, and adds that to what
// was there. VDPBF16PS adds both products of a pair to one sum. They round differently, so they cannot take turns.
// By the same text a row's result comes from nothing but its own row, so what the unused rows hold does not matter.
//
// By the figures published for them, the tiles keep up with memory even with one row: 16 cycles an instruction are
// 256 for a block, which is 8 or 16 KB of weights.
#pragma once
#include <algorithm>

#include "tile.h"

#if defined(FULLBORE_EMULATED_TILES)
#include "amx_emulated.h"
#endif

namespace fullbore {

constexpr int kTileRows = 16;
constexpr int kTilePairs = 16;                       // of inputs: what a row of 64 bytes holds
constexpr int kPanelBytes = kPanel * 2 * sizeof(bf16);  // from one pair of inputs to the next

// The operand of LDTILECFG.
struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

// This thread's tiles, all of full size, to the end of the scope. Not for longer: torch's own kernels set the tiles of
// the same threads, and a core whose tiles are in use does not sleep deeply.
class Tiles {
 public:
  Tiles() {
    static constexpr TileConfig config = [] {
      TileConfig all{};
      all.palette = 1;
      for (int tile = 0; tile < 8; ++tile) all.row_bytes[tile] = 64, all.rows[tile] = kTileRows;
      return all;
    }();
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// Fetches the next block, a few lines with each step: a burst of them would stall.
template <int kCache>
struct Ahead {
  const uint8_t* line;
  int lines;  // with each step

  void operator()() {
    for (int i = 0; i < lines; ++i, line += 64) __builtin_prefetch(line, 0, kCache);
  }
};

// sums: [16][64] of one block. left: [16][128] activations; weights: [64 pairs][64][2]; `steps` of 16 pairs.
template <class Fetch>
inline void tile_products(const bf16* left, const bf16* weights, int steps, Fetch& fetch, float* sums) {
  asm volatile("" ::: "memory");  // gcc's _tile_loadd does not say that it reads what was just written
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int step = 0; step < steps; ++step, left += 2 * kTilePairs, weights += kTilePairs * 2 * kPanel) {
    fetch();
    _tile_loadd(4, left, kBlock * sizeof(bf16));
    _tile_loadd(5, weights, kPanelBytes);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, weights + 32, kPanelBytes);
    _tile_dpbf16ps(1, 4, 6);
    _tile_loadd(7, weights + 64, kPanelBytes);
    _tile_dpbf16ps(2, 4, 7);
    _tile_loadd(5, weights + 96, kPanelBytes);
    _tile_dpbf16ps(3, 4, 5);
  }
  _tile_stored(0, sums, kPanel * sizeof(float));
  _tile_stored(1, sums + 16, kPanel * sizeof(float));
  _tile_stored(2, sums + 32, kPanel * sizeof(float));
  _tile_stored(3, sums + 48, kPanel * sizeof(float));
}

// A row's values of one block; zeros after its end, where the weights are zeros too (but nan times zero is not).
inline void take(const bf16* from, int inputs, bf16* to) {
  if (inputs == kBlock) {  // a copy of constant size is four moves
    memcpy(to, from, kBlock * sizeof(bf16));
  } else {
    memcpy(to, from, inputs * sizeof(bf16));
    memset(to + inputs, 0, (kBlock - inputs) * sizeof(bf16));
  }
}

// `multiply` (panel.h) for bfloat16 rows.
template <class F>
void multiply_in_tiles(const bf16* const* a, int rows, const uint8_t* w, int64_t in, float* c, const uint8_t* next) {
  alignas(64) bf16 decoded[F::kCoded ? kBlock * kPanel : 1];
  alignas(64) bf16 left[2][kTileRows * kBlock] = {};  // this tile's rows, and meanwhile those of the next
  alignas(64) float sums[kTileRows * kPanel];
  const Tiles configured;
  const int tiles = (rows + kTileRows - 1) / kTileRows;
  for (int64_t k = 0; k < in; k += kBlock, w += F::kBlockBytes) {
    const int pairs = static_cast<int>(std::min<int64_t>(kBlock, in - k) + 1) / 2;
    const int steps = (pairs + kTilePairs - 1) / kTilePairs;
    const bf16* weights = reinterpret_cast<const bf16*>(w);
    if constexpr (F::kCoded) decode_block(F{}, w, decoded), weights = decoded;
    const float factor = F::factor(w, 0);
    const uint8_t* after = k + kBlock < in ? w + F::kBlockBytes : next;
    Ahead<F::kCache> fetch{after, F::kLines * kPairs / (tiles * steps) + 1};

    const auto gather = [&](int tile) {
      for (int row = tile * kTileRows; row < std::min(rows, (tile + 1) * kTileRows); ++row)
        take(a[row] + k, 2 * pairs, left[tile % 2] + row % kTileRows * kBlock);
    };
    gather(0);
    for (int tile = 0; tile < tiles; ++tile) {
      if (tile + 1 < tiles) gather(tile + 1);
      tile_products(left[tile % 2], weights, steps, fetch, sums);
      const int begin = tile * kTileRows, count = std::min(kTileRows, rows - begin);
      const Into into{c + begin * kPanel, factor, k == 0};
      for (int row = 0; row < count; ++row)
        for (int vector = 0; vector < kPanel / W; ++vector) into(row, vector, load(sums + row * kPanel + vector * W));
    }
  }
}

}  // namespace fullbore
