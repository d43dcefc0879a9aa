// Calls every exported kernel on every kind of edge, with memory that ends where the data ends: for the sanitizers.
// It checks values only so far that a run which computed nothing fails; Python's tests hold them to the reference.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "pool.h"
#include "vec.h"

using namespace fullbore;

extern "C" {
Pool* fb_pool_new(int, const int*);
void fb_pool_free(Pool*);
int64_t fb_panel_bytes(int64_t, int64_t);
void fb_pack(Pool*, int64_t, const uint8_t*, const void*, int64_t, int64_t, uint8_t*, int64_t);
void fb_linear(Pool*, const uint8_t*, int64_t, int64_t, int64_t, int64_t, const void*, int64_t, void*);
int64_t fb_moe_ffn(Pool*, const uint8_t*, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, const void*,
                   const int64_t*, const float*, void*);
}

namespace {

struct Random {
  uint32_t state = 1;
  uint32_t operator()(uint32_t below) {
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % below;
  }
};

int failures = 0;

void expect(bool good, const char* what) {
  if (!good) {
    std::printf("%s\n", what);
    ++failures;
  }
}

// A matrix whose every value is one, so that a row of x times it is the sum of the row.
void pack_ones(Pool* pool, int64_t format, int64_t out, int64_t in, uint8_t* to, int64_t step) {
  const auto pack = [&](const auto& values, const auto& factors) {
    fb_pack(pool, format, reinterpret_cast<const uint8_t*>(values.data()), factors.data(), out, in, to, step);
  };
  const int64_t group = format == 3 ? 32 : 128;
  const std::vector<float> of_blocks(((out + 127) / 128) * ((in + 127) / 128), 1.0f);
  const std::vector<bf16> of_rows(out * ((in + group - 1) / group), to_bf16(1.0f));
  if (format == 0) pack(std::vector<bf16>(out * in, to_bf16(1.0f)), of_blocks);
  else if (format == 1) pack(std::vector<uint8_t>(out * in, 7 << 3), of_blocks);
  else pack(std::vector<int8_t>(out * in, 1), of_rows);
}

template <class X>
X number(float x) {
  if constexpr (std::is_same_v<X, bf16>) return to_bf16(x);
  else return x;
}

inline float value(float x) { return x; }
inline float value(bf16 x) { return to_float(x); }

template <class X>
void linear(Pool* pool, int64_t format, int64_t rows, int64_t out, int64_t in) {
  const int64_t step = fb_panel_bytes(format, in);
  std::vector<uint8_t> packed((out + 63) / 64 * step);
  pack_ones(pool, format, out, in, packed.data(), step);
  const std::vector<X> x(rows * in, number<X>(0.5f));
  std::vector<X> y(rows * out);
  fb_linear(pool, packed.data(), format, out, in, sizeof(X) == 2, x.data(), rows, y.data());
  for (const X& sum : y) expect(std::fabs(value(sum) / (0.5f * static_cast<float>(in)) - 1) < 0.01f, "linear is wrong");
}

template <class X>
void moe_ffn(Pool* pool, int64_t format, int64_t tokens, int64_t k, int64_t experts, int64_t hidden, int64_t inter,
             Random& random) {
  const int64_t into = fb_panel_bytes(format, hidden), out = fb_panel_bytes(format, inter);
  const int64_t gate_up = 2 * ((inter + 63) / 64) * into, size = gate_up + (hidden + 63) / 64 * out;
  std::vector<uint8_t> packed(experts * size);
  for (int64_t expert = 0; expert < experts; ++expert) {
    uint8_t* place = packed.data() + expert * size;
    pack_ones(pool, format, inter, hidden, place, 2 * into);
    pack_ones(pool, format, inter, hidden, place + into, 2 * into);
    pack_ones(pool, format, hidden, inter, place + gate_up, out);
  }
  std::vector<int64_t> ids(tokens * k);
  for (auto& id : ids) id = random(static_cast<uint32_t>(experts));
  const std::vector<float> scores(tokens * k, 1.0f / static_cast<float>(k));
  const std::vector<X> x(tokens * hidden, number<X>(1.0f / static_cast<float>(hidden)));
  std::vector<X> y(tokens * hidden);
  const int64_t refused = fb_moe_ffn(pool, packed.data(), format, experts, hidden, inter, sizeof(X) == 2, tokens, k,
                                     x.data(), ids.data(), scores.data(), y.data());
  expect(!refused, "moe_ffn refused good ids");
  const float expected = static_cast<float>(inter) / (1 + std::exp(-1.0f));  // silu(1) * 1, summed over inter
  for (const X& sum : y) expect(std::fabs(value(sum) / expected - 1) < 0.02f, "moe_ffn is wrong");
  if (!ids.empty()) {
    ids.back() = experts;
    expect(fb_moe_ffn(pool, packed.data(), format, experts, hidden, inter, sizeof(X) == 2, tokens, k, x.data(),
                      ids.data(), scores.data(), y.data()) == 1,
           "moe_ffn took an expert that is none");
  }
}

void everything(Pool* pool, uint32_t seed) {
  Random random{seed};
  for (int64_t format = 0; format < 5; ++format) {
    for (const int64_t rows : {0, 1, 3, 5, 6, 7, 13, 253}) {
      const int64_t out = 1 + random(200), in = 1 + random(300);
      linear<float>(pool, format, rows, out, in);
      linear<bf16>(pool, format, rows, out, in);
    }
    for (const int64_t tokens : {0, 1, 5, 30}) {
      const int64_t experts = 1 + random(5), k = 1 + random(3), hidden = 1 + random(150), inter = 1 + random(150);
      moe_ffn<float>(pool, format, tokens, k, experts, hidden, inter, random);
      moe_ffn<bf16>(pool, format, tokens, k, experts, hidden, inter, random);
    }
  }
}

}  // namespace

int main() {
  for (const int threads : {1, 2, 5}) {
    Pool* pool = fb_pool_new(threads, nullptr);
    everything(pool, threads);
    std::thread other([&] { everything(pool, 11); });  // calls from two threads take turns
    everything(pool, 7);
    other.join();
    fb_pool_free(pool);
  }
  std::printf(failures ? "%d failures\n" : "clean\n", failures);
  return failures != 0;
}
