// Packed weights. A matrix [out, in] is cut into panels of 64 outputs and each panel into blocks of 128 inputs;
// a block is contiguous, carries its own factors, and follows the block before it: one stream of memory.
//
//   bf16       [64 pairs of inputs][64 outputs][2]     the order of bfloat16 dot products, and of AMX tiles
//   fp8_block  [64 pairs][2 halves][64 bytes], then the block's factor; within a half as `place` in fp8.h says
//
// What is missing at the edges is zero. One layout for every instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

#include "vec.h"

namespace fullbore {

constexpr int kPanel = 64;         // outputs
constexpr int kBlock = 128;        // inputs; also the side of a block of fp8_block
constexpr int kPairs = kBlock / 2;

#if defined(__AMX_BF16__) || defined(FULLBORE_EMULATED_TILES)
#define FULLBORE_TILES
#endif

#if defined(__AVX512BF16__) || defined(FULLBORE_TILES)
constexpr bool kDots = true;  // bfloat16 dot products
#else
constexpr bool kDots = false;
#endif

enum class Format : int64_t { kBf16 = 0, kFp8Block = 1 };

struct Bf16 {
  static constexpr bool kCoded = false;  // blocks are pairs of bfloat16 as they lie
  static constexpr size_t kBlockBytes = kBlock * kPanel * 2;
  static constexpr int kLines = 4;  // cache lines of a pair of inputs
  static constexpr int kCache = 2;  // that the next block is fetched into: two of them would fill the first
  static float factor(const uint8_t*) { return 1.0f; }
};

struct Fp8Block {
  static constexpr bool kCoded = true;
  static constexpr size_t kValues = kBlock * kPanel;
  static constexpr size_t kBlockBytes = kValues + 64;
  static constexpr int kLines = 2;
  static constexpr int kCache = 3;
  static float factor(const uint8_t* block) { return *reinterpret_cast<const float*>(block + kValues); }
};

// visit(Bf16{}) or visit(Fp8Block{}).
template <class Visit>
auto with_format(Format format, Visit&& visit) {
  return format == Format::kBf16 ? visit(Bf16{}) : visit(Fp8Block{});
}

inline int64_t panels(int64_t out) { return (out + kPanel - 1) / kPanel; }
inline int64_t blocks(int64_t in) { return (in + kBlock - 1) / kBlock; }

inline size_t panel_bytes(Format format, int64_t in) {
  return with_format(format, [&](auto f) { return blocks(in) * decltype(f)::kBlockBytes; });
}

inline size_t matrix_bytes(Format format, int64_t out, int64_t in) {
  return panels(out) * panel_bytes(format, in);
}

}  // namespace fullbore
