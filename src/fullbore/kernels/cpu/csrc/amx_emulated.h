// AMX tiles in plain C++, under the names of <immintrin.h>, after the operations in Intel's instruction set reference.
// For tests on CPUs without them: an object compiled with FULLBORE_EMULATED_TILES, some hundred times slower.
//
// What would raise an exception ends the process: tiles that this thread did not configure, shapes that do not fit.
#pragma once
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace fullbore::emulated {

constexpr int kTiles = 8, kMostRows = 16, kMostBytes = 64, kWords = kMostBytes / 4;

struct Tile {
  int rows, bytes;  // 0 where it is not configured
  uint32_t words[kMostRows][kWords];
};

inline thread_local Tile tiles[kTiles];

inline void require(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "emulated AMX: %s\n", what);
  std::abort();
}

inline Tile& configured(int number) {
  require(tiles[number].rows, "a tile is used that this thread did not configure");
  return tiles[number];
}

inline void release() { memset(tiles, 0, sizeof tiles); }

// `config`: 64 bytes, as LDTILECFG has them.
inline void configure(const void* config) {
  uint8_t bytes[64];
  memcpy(bytes, config, sizeof bytes);
  require(bytes[0] == 1, "the palette is not 1");
  for (int i = 1; i < 16; ++i) require(!bytes[i], "a reserved byte or the first row is not 0");
  release();
  for (int i = 0; i < 16; ++i) {
    const int row_bytes = bytes[16 + 2 * i] | bytes[17 + 2 * i] << 8, rows = bytes[48 + i];
    require(rows <= kMostRows && row_bytes <= kMostBytes && !rows == !row_bytes, "a tile's size cannot be");
    require(i < kTiles || !rows, "there are 8 tiles");
    if (i < kTiles) tiles[i].rows = rows, tiles[i].bytes = row_bytes;
  }
}

inline void zero(int number) {
  Tile& tile = configured(number);
  memset(tile.words, 0, sizeof tile.words);
}

inline void load(int number, const void* base, int64_t stride) {
  zero(number);
  Tile& tile = tiles[number];
  for (int row = 0; row < tile.rows; ++row)
    memcpy(tile.words[row], static_cast<const char*>(base) + row * stride, tile.bytes);
}

inline void store(int number, void* base, int64_t stride) {
  const Tile& tile = configured(number);
  for (int row = 0; row < tile.rows; ++row)
    memcpy(static_cast<char*>(base) + row * stride, tile.words[row], tile.bytes);
}

// DAZ and FTZ are both set, whatever MXCSR says.
inline float flushed(float x) { return std::fabs(x) < FLT_MIN ? std::copysign(0.0f, x) : x; }

inline float first(uint32_t pair) { return std::bit_cast<float>(pair << 16); }
inline float second(uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); }

inline void dpbf16ps(int to, int left, int right) {
  require(to != left && to != right && left != right, "two operands are one tile");
  Tile& sums = configured(to);
  const Tile &a = configured(left), &b = configured(right);
  require(sums.rows == a.rows && sums.bytes == b.bytes && a.bytes == 4 * b.rows, "the operands' sizes do not fit");
  require(a.bytes % 4 == 0 && b.bytes % 4 == 0, "a row is no whole number of pairs");
  for (int row = 0; row < sums.rows; ++row) {
    float even[kWords] = {}, odd[kWords] = {};
    for (int k = 0; k < b.rows; ++k) {
      const float x = flushed(first(a.words[row][k])), y = flushed(second(a.words[row][k]));
      for (int n = 0; n < kWords; ++n) {  // beyond the row's bytes there are zeros
        even[n] = flushed(std::fma(x, flushed(first(b.words[k][n])), even[n]));
        odd[n] = flushed(std::fma(y, flushed(second(b.words[k][n])), odd[n]));
      }
    }
    for (int n = 0; n < kWords; ++n) {
      const float before = flushed(std::bit_cast<float>(sums.words[row][n]));
      sums.words[row][n] = std::bit_cast<uint32_t>(flushed(before + flushed(even[n] + odd[n])));
    }
  }
}

}  // namespace fullbore::emulated

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig(config) ::fullbore::emulated::configure(config)
#define _tile_release() ::fullbore::emulated::release()
#define _tile_zero(tile) ::fullbore::emulated::zero(tile)
#define _tile_loadd(tile, base, stride) ::fullbore::emulated::load(tile, base, stride)
#define _tile_stored(tile, base, stride) ::fullbore::emulated::store(tile, base, stride)
#define _tile_dpbf16ps(to, left, right) ::fullbore::emulated::dpbf16ps(to, left, right)
