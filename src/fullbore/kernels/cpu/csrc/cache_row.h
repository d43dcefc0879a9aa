// A token's row in the cache, as `ops/cache.py` defines it: the latent, then the rotated key, either as values of
// one type or in FP8: e4m3 latents, a float32 factor for each 128 of them, the key in bfloat16.
//
// e4m3's nan is never read: what is not finite makes its group's factor nan, and zero times nan is nan.
#pragma once
#include <algorithm>
#include <bit>

#include "fp8.h"
#include "rows.h"

namespace fullbore {

struct CacheRow {
  static constexpr int kFactored = 128;  // latents of one factor

  int latent, rope;
  int bits;  // of a latent: 8 in FP8, 16 in bfloat16, 0 as the activations are

  int factors() const { return (latent + kFactored - 1) / kFactored; }

  template <class In>
  bool as_activations() const {
    return bits == 0 || (bits == 16 && std::is_same_v<In, bf16>);
  }

  // Activations of type In.
  template <class In>
  int64_t bytes() const {
    if (bits == 8) return latent + 4 * factors() + 2 * rope;
    return int64_t{latent + rope} * (bits == 16 ? 2 : sizeof(In));
  }

  // From latent + rope values.
  template <class In>
  void encode(const In* from, char* to) const {
    if (bits == 8) encode_fp8(from, to);
    else if (as_activations<In>()) convert(from, reinterpret_cast<In*>(to), latent + rope);
    else convert(from, reinterpret_cast<bf16*>(to), latent + rope);
  }

  // Into latent + rope values.
  template <class In, class T>
  void decode(const char* from, T* to) const {
    if (bits == 8) decode_fp8(from, to);
    else if (as_activations<In>()) convert(reinterpret_cast<const In*>(from), to, latent + rope);
    else convert(reinterpret_cast<const bf16*>(from), to, latent + rope);
  }

 private:
  typedef uint8_t vb __attribute__((vector_size(W)));

  // The least power of two that brings `largest` (the bits of an absolute value) within 448 = 1.75 * 2^8; at
  // least 2^-100; nan for what is not finite.
  static uint32_t factor_bits(int32_t largest) {
    constexpr int32_t kInfinity = 0x7f800000, kBeyond = 0x1fffff;  // carries into the exponent above 1.75
    if (largest >= kInfinity) return 0x7fc00000;
    return static_cast<uint32_t>(std::max(((largest + kBeyond) >> 23) - 8, 127 - 100)) << 23;
  }

  // Signed bytes. In intrinsics, since gcc 12 takes a conversion of vectors apart into bytes.
  static vi widened(const uint8_t* bytes) {
#if defined(__AVX512F__)
    const __m128i some = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
    return reinterpret_cast<vi>(_mm512_maskz_cvtepi8_epi32(0xffff, some));  // masked: gcc 12 warns of the other
#elif defined(__AVX2__)
    return reinterpret_cast<vi>(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes))));
#else
    typedef int8_t vs __attribute__((vector_size(W)));
    vs signs;
    memcpy(&signs, bytes, sizeof signs);
    return __builtin_convertvector(signs, vi);
#endif
  }

  static vb narrowed(vu x) {
#if defined(__AVX512F__)
    return reinterpret_cast<vb>(_mm512_maskz_cvtepi32_epi8(0xffff, reinterpret_cast<__m512i>(x)));
#else
    return __builtin_convertvector(x, vb);
#endif
  }

  // |x| <= 448 to the nearest code, ties to even.
  static vb code(vf x) {
    const vu all = reinterpret_cast<vu>(x), magnitude = all & 0x7fffffffu;
    const vu normal = ((magnitude + 0x7ffffu + ((magnitude >> 20) & 1)) >> 20) - (120u << 3);
    // The sum's last bit is the step of e4m3's subnormals, 2^-9: adding rounds to it.
    constexpr float kStep = 16384.0f;
    const vu small = reinterpret_cast<vu>(reinterpret_cast<vf>(magnitude) + kStep) - reinterpret_cast<vu>(splat(kStep));
    const vu chosen = reinterpret_cast<vf>(magnitude) < 0x1p-6f ? small : normal;
    return narrowed(((all >> 24) & 0x80u) | (chosen & 0x7fu));
  }

  // Sign and magnitude where float32 has them: e4m3's value times 2^-120, its subnormals included.
  static vf value(const uint8_t* codes) {
    const vi wide = widened(codes);
    return reinterpret_cast<vf>((wide << 20) & static_cast<int32_t>(0x87f00000)) * 0x1p120f;
  }

  template <class In>
  void encode_fp8(const In* from, char* to) const {
    char* const factor_at = to + latent;
    for (int begin = 0; begin < latent; begin += kFactored) {
      const int n = std::min(kFactored, latent - begin);
      float values[kFactored] = {};
      uint8_t codes[kFactored];
      convert(from + begin, values, n);
      vi most = {};  // bits of absolute values are in their order, with nan above infinity
      for (int i = 0; i < kFactored; i += W) {
        const vi bits = reinterpret_cast<vi>(load(values + i)) & 0x7fffffff;
        most = bits > most ? bits : most;
      }
      int32_t largest = 0;
      for (int lane = 0; lane < W; ++lane) largest = std::max<int32_t>(largest, most[lane]);
      const uint32_t bits = factor_bits(largest);
      const float inverse = std::bit_cast<float>((254u << 23) - std::min(bits, 254u << 23));
      for (int i = 0; i < kFactored; i += W) {
        const vb eight = code(load(values + i) * inverse);
        memcpy(codes + i, &eight, sizeof eight);
      }
      memcpy(to + begin, codes, n);
      memcpy(factor_at + begin / kFactored * 4, &bits, 4);
    }
    convert(from + latent, reinterpret_cast<bf16*>(factor_at + 4 * factors()), rope);
  }

  template <class T>
  void decode_fp8(const char* from, T* to) const {
    const char* const factor_at = from + latent;
    for (int begin = 0; begin < latent; begin += kFactored) {
      float factor;
      memcpy(&factor, factor_at + begin / kFactored * 4, 4);
      const uint8_t* const codes = reinterpret_cast<const uint8_t*>(from) + begin;
      decode_group(codes, factor, std::min(kFactored, latent - begin), to + begin);
    }
    convert(reinterpret_cast<const bf16*>(factor_at + 4 * factors()), to + latent, rope);
  }

  template <class T>
  static void decode_group(const uint8_t* codes, float factor, int n, T* to) {
    int i = 0;
    for (; i + W <= n; i += W) store(to + i, value(codes + i) * factor);
    if (i == n) return;
    uint8_t rest[W] = {};
    float values[W];
    memcpy(rest, codes + i, n - i);
    store(values, value(rest) * factor);
    convert(values, to + i, n - i);
  }

#if defined(__AVX512VBMI__)
  // A whole group by table; the factor's power of two is added to the exponents of what is not zero.
  static void decode_group(const uint8_t* codes, float factor, int n, bf16* to) {
    if (n < kFactored || factor != factor) return decode_group<bf16>(codes, factor, n, to);
    const Fp8Decoder decode;
    const __m512i in_order = _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0), magnitude = _mm512_set1_epi16(0x7fff);
    const __m512i power = _mm512_set1_epi16(static_cast<short>((std::bit_cast<uint32_t>(factor) >> 16) - (127 << 7)));
    for (int i = 0; i < kFactored; i += 64) {
      __m512i half[2];
      decode(_mm512_maskz_permutexvar_epi64(0xff, in_order, _mm512_loadu_si512(codes + i)), half[0], half[1]);
      for (int k = 0; k < 2; ++k) {
        const __mmask32 any = _mm512_test_epi16_mask(half[k], magnitude);
        _mm512_storeu_si512(to + i + 32 * k, _mm512_mask_add_epi16(half[k], any, half[k], power));
      }
    }
  }
#endif
};

}  // namespace fullbore
