// e4m3 (sign, 4 bits of exponent with bias 7, 3 of mantissa; no infinity) to bfloat16, which holds it exactly.
#pragma once
#include <array>
#include <bit>
#include <cstdint>

#include "matrix.h"

namespace fullbore {

constexpr bf16 decode_e4m3(uint8_t code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const bf16 sign = static_cast<bf16>((code & 0x80) << 8);
  if (exponent == 15 && mantissa == 7) return sign | 0x7fc0;
  if (exponent) return static_cast<bf16>(sign | ((exponent + 120) << 7 | mantissa << 4));
  return sign | static_cast<bf16>(std::bit_cast<uint32_t>(mantissa * 0x1p-9f) >> 16);
}

constexpr auto kE4m3 = [] {
  std::array<bf16, 256> table{};
  for (int code = 0; code < 256; ++code) table[code] = decode_e4m3(static_cast<uint8_t>(code));
  return table;
}();

// Where in its half (32 outputs, 64 bytes) the code of (output, input of the pair) lies: interleaving the low and
// high halves of each 16 bytes with their decoded low bytes then gives outputs 0-15 and 16-31 in order.
constexpr int place(int output, int input) {
  const int word = output % 16 * 2 + input;
  return word / 8 * 16 + output / 16 * 8 + word % 8;
}

#if defined(__AVX512VBMI__)

// Two table look-ups for 64 codes: the low and the high bytes of their values, sign apart.
class Fp8Decoder {
 public:
  Fp8Decoder() {
    alignas(64) static constexpr auto tables = [] {
      std::array<std::array<uint8_t, 128>, 2> bytes{};
      for (int code = 0; code < 128; ++code) {
        bytes[0][code] = static_cast<uint8_t>(kE4m3[code]);
        bytes[1][code] = static_cast<uint8_t>(kE4m3[code] >> 8);
      }
      return bytes;
    }();
    for (int byte = 0; byte < 2; ++byte)
      for (int half = 0; half < 2; ++half) table_[byte][half] = _mm512_load_si512(&tables[byte][half * 64]);
  }

  // 64 codes at `half` -> outputs 0-15 and 16-31 of the half, a pair of inputs each.
  void operator()(const uint8_t* half, __m512i& first, __m512i& second) const {
    (*this)(_mm512_loadu_si512(half), first, second);
  }

  // 64 codes -> of each 16 of them the values of the first 8 and of the last 8.
  void operator()(__m512i codes, __m512i& first, __m512i& second) const {
    const __m512i low = _mm512_permutex2var_epi8(table_[0][0], codes, table_[0][1]);
    const __m512i unsigned_high = _mm512_permutex2var_epi8(table_[1][0], codes, table_[1][1]);
    const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
    const __m512i high = _mm512_ternarylogic_epi32(unsigned_high, codes, sign, 0xf8);  // a | (b & c)
    first = _mm512_unpacklo_epi8(low, high);
    second = _mm512_unpackhi_epi8(low, high);
  }

 private:
  __m512i table_[2][2];
};

#endif

// A block of codes -> [64 pairs][64 outputs][2] bfloat16.
inline void decode_block(Fp8Block, const uint8_t* block, bf16* pairs) {
#if defined(__AVX512VBMI__)
  const Fp8Decoder decode;
  for (int half = 0; half < 2 * kPairs; ++half) {
    __m512i first, second;
    decode(block + half * 64, first, second);
    _mm512_store_si512(pairs + half * 64, first);
    _mm512_store_si512(pairs + half * 64 + 32, second);
  }
#elif defined(__AVX2__)
  const __m256i low7 = _mm256_set1_epi16(0x7f), mantissa = _mm256_set1_epi16(0x07);
  // bytes 0-7: low bytes of the subnormals m / 512; the high bytes likewise. A set top bit yields zero.
  const __m256i small_low = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, -128, -64, 0, 32, 64, 96, 0, 0, 0, 0, 0, 0, 0, 0));
  const __m256i small_high = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 59, 59, 59, 60, 60, 60, 60, 0, 0, 0, 0, 0, 0, 0, 0));
  for (int half = 0; half < 2 * kPairs; ++half) {
    for (int lane = 0; lane < 4; ++lane) {
      const auto* codes = reinterpret_cast<const __m128i*>(block + half * 64 + lane * 16);
      const __m256i code = _mm256_cvtepu8_epi16(_mm_loadu_si128(codes));
      const __m256i magnitude = _mm256_and_si256(code, low7);
      const __m256i normal = _mm256_add_epi16(_mm256_slli_epi16(magnitude, 4), _mm256_set1_epi16(120 << 7));
      const __m256i m = _mm256_and_si256(code, mantissa);
      const __m256i in_low = _mm256_or_si256(m, _mm256_set1_epi16(static_cast<short>(0x8000)));
      const __m256i in_high = _mm256_or_si256(_mm256_slli_epi16(m, 8), _mm256_set1_epi16(0x80));
      const __m256i small = _mm256_or_si256(_mm256_shuffle_epi8(small_low, in_low), _mm256_shuffle_epi8(small_high, in_high));
      const __m256i is_small = _mm256_cmpgt_epi16(_mm256_set1_epi16(8), magnitude);
      const __m256i is_nan = _mm256_cmpeq_epi16(magnitude, low7);
      const __m256i sign = _mm256_slli_epi16(_mm256_andnot_si256(low7, code), 8);
      const __m256i number = _mm256_or_si256(_mm256_blendv_epi8(normal, small, is_small), sign);
      const __m256i value = _mm256_or_si256(number, _mm256_and_si256(is_nan, _mm256_set1_epi16(0x7fc0)));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(pairs + half * 64 + lane * 8), _mm256_castsi256_si128(value));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(pairs + half * 64 + 32 + lane * 8), _mm256_extracti128_si256(value, 1));
    }
  }
#else
  for (int half = 0; half < 2 * kPairs; ++half)
    for (int output = 0; output < 32; ++output)
      for (int input = 0; input < 2; ++input)
        pairs[half * 64 + output * 2 + input] = kE4m3[block[half * 64 + place(output, input)]];
#endif
}

}  // namespace fullbore
