// Vectors of float32 in whatever width this instruction set has, from the compiler's vector extensions: one
// source for AVX-512, AVX2, SSE2 and NEON. `a * b + c` becomes a fused multiply-add where there is one.
// Only what has no portable spelling (bfloat16 and int8 dot products, byte permutes) uses intrinsics.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fullbore {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

using bf16 = uint16_t;

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef uint16_t vh __attribute__((vector_size(2 * W)));

static inline vf splat(float x) { return vf{} + x; }
static inline vf load(const float* p) { vf v; memcpy(&v, p, sizeof v); return v; }
static inline void store(float* p, vf v) { memcpy(p, &v, sizeof v); }
static inline vf max(vf a, vf b) { return a > b ? a : b; }
static inline vf min(vf a, vf b) { return a < b ? a : b; }

static inline float to_float(bf16 x) {
  const uint32_t u = static_cast<uint32_t>(x) << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

static inline vf load(const bf16* p) {
  vh h;
  memcpy(&h, p, sizeof h);
  return reinterpret_cast<vf>(__builtin_convertvector(h, vu) << 16);
}

// To nearest, ties to even; nan stays nan.
static inline void store(bf16* p, vf v) {
#if defined(__AVX512BF16__) && defined(__AVX512F__)
  const __m256bh h = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(v));
  memcpy(p, &h, sizeof h);
#else
  const vu u = reinterpret_cast<vu>(v);
  const vu rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  const vu quiet = (u >> 16) | 0x40;
  const vh h = __builtin_convertvector(v == v ? rounded : quiet, vh);
  memcpy(p, &h, sizeof h);
#endif
}

static inline bf16 to_bf16(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return static_cast<bf16>(x == x ? (u + 0x7fff + ((u >> 16) & 1)) >> 16 : (u >> 16) | 0x40);
}

static inline float sum(vf v) {
  float total = 0;
  for (int lane = 0; lane < W; ++lane) total += v[lane];
  return total;
}

// e^x to about 1e-7 relative; 0 below -87.3, inf never (the argument is held at 88), nan for nan.
static inline vf exp(vf x) {
  const vf held = min(max(x, splat(-87.3f)), splat(88.0f));
  const vf t = held * 1.44269504f;
  const vi n = __builtin_convertvector(t + (t < 0 ? splat(-0.5f) : splat(0.5f)), vi);
  const vf whole = __builtin_convertvector(n, vf);
  const vf r = (held - whole * 0.693359375f) - whole * -2.12194440e-4f;  // Cody and Waite: ln 2 in two parts
  vf p = splat(1.9875691500e-4f);  // Cephes expf, minimax on [-ln2/2, ln2/2]
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const vf scaled = p * reinterpret_cast<vf>((n + 127) << 23);
  const vf result = x < -87.3f ? vf{} : scaled;
  return x == x ? result : x;  // what is not a number must show at the end
}

}  // namespace fullbore
