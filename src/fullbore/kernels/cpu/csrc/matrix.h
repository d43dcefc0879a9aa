// Packed weights. A matrix [out, in] is cut into panels of 64 outputs and each panel into blocks of 128 inputs;
// a block is contiguous, carries its own factors, and follows the block before it: one stream of memory.
//
//   bf16       [64 pairs of inputs][64 outputs][2]     the order of bfloat16 dot products, and of AMX tiles
//   fp32       [128 inputs][64 outputs]
//   fp8_block  [64 pairs][2 halves][64 bytes], then the block's factor; within a half as `place` in fp8.h says
//   int8       [32 quads][64 outputs][4 inputs] + 128, the order of byte dot products, whose one side is unsigned;
//              then bfloat16 factors [groups of the block][64 outputs]
//   int4       [32 quads][2 halves][16 outputs][4 inputs], two numbers + 8 to a byte: of the half's first 16 outputs
//              in its low bits, of the other 16 in its high bits; then the factors
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

#if defined(__AVX512VNNI__)
constexpr bool kByteDots = true;  // dot products of unsigned with signed bytes
#else
constexpr bool kByteDots = false;
#endif

enum class Format : int64_t { kBf16 = 0, kFp8Block = 1, kInt8 = 2, kInt4G32 = 3, kInt4G128 = 4, kFp32 = 5 };

struct Bf16 {
  static constexpr bool kCoded = false;  // blocks are multiplied as they lie
  static constexpr bool kWhole = false;  // values are whole numbers
  static constexpr int kGroup = kBlock;  // inputs that share a factor
  static constexpr size_t kBlockBytes = kBlock * kPanel * 2;
  static constexpr int kLines = 4;  // cache lines of a pair of inputs
  static constexpr int kCache = 2;  // that the next block is fetched into: two of them would fill the first
  static float factor(const uint8_t*, int) { return 1.0f; }
};

struct Fp32 {
  static constexpr bool kCoded = false;
  static constexpr bool kWhole = false;
  static constexpr int kGroup = kBlock;
  static constexpr size_t kBlockBytes = kBlock * kPanel * sizeof(float);
  static constexpr int kLines = 8;
  static constexpr int kCache = 2;
  static float factor(const uint8_t*, int) { return 1.0f; }
};

struct Fp8Block {
  static constexpr bool kCoded = true;
  static constexpr bool kWhole = false;
  static constexpr int kGroup = kBlock;
  static constexpr size_t kValues = kBlock * kPanel;
  static constexpr size_t kBlockBytes = kValues + 64;
  static constexpr int kLines = 2;
  static constexpr int kCache = 3;
  static float factor(const uint8_t* block, int) { return *reinterpret_cast<const float*>(block + kValues); }
};

// Numbers of so many bits, in [-kZero, kZero), with a factor for each output and group of inputs.
template <int kBitsEach, int kInputs>
struct Integers {
  static constexpr bool kCoded = true;
  static constexpr bool kWhole = true;
  static constexpr int kBits = kBitsEach;
  static constexpr int kGroup = kInputs;
  static constexpr int kZero = 1 << (kBits - 1);  // what zero is stored as
  static constexpr size_t kValues = kBlock * kPanel * kBits / 8;
  static constexpr size_t kBlockBytes = kValues + kBlock / kGroup * kPanel * sizeof(bf16);
  static constexpr int kLines = kBits / 4;
  static constexpr int kCache = 3;
  static const bf16* factor(const uint8_t* block, int group) {  // [64]
    return reinterpret_cast<const bf16*>(block + kValues) + group * kPanel;
  }
};

using Int8 = Integers<8, kBlock>;
using Int4G32 = Integers<4, 32>;
using Int4G128 = Integers<4, kBlock>;

// visit(Bf16{}), visit(Fp8Block{}) ...
template <class Visit>
auto with_format(Format format, Visit&& visit) {
  switch (format) {
    case Format::kBf16: return visit(Bf16{});
    case Format::kFp8Block: return visit(Fp8Block{});
    case Format::kInt8: return visit(Int8{});
    case Format::kInt4G32: return visit(Int4G32{});
    case Format::kFp32: return visit(Fp32{});
    default: return visit(Int4G128{});
  }
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
