// Calls every exported kernel on every kind of edge, with memory that ends where the data ends: for the sanitizers.
// It checks values only so far that a run which computed nothing fails; Python's tests hold them to the reference.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "cache_row.h"
#include "linear.h"
#include "pack.h"
#include "pool.h"
#include "projections.h"
#include "vec.h"

using namespace fullbore;

extern "C" {
Pool* fb_pool_new(int, const int*);
void fb_pool_free(Pool*);
int64_t fb_panel_bytes(int64_t, int64_t);
void fb_pack(Pool*, int64_t, const Stored*, int64_t);
void fb_linear(const Linear*);
int64_t fb_moe_ffn(Pool*, const uint8_t*, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                   int64_t, int64_t, const void*, const int64_t*, const float*, void*);
int fb_mla_decode(Pool*, const attention::MlaWeights*, int64_t, const void*, int64_t, int64_t, const void*, int64_t,
                  int64_t, const int32_t*, int64_t, int64_t, const int32_t*, int64_t, void*);
int fb_mla_prefill(Pool*, const attention::MlaWeights*, int64_t, const void*, int64_t, int64_t, const void*, int64_t,
                   int64_t, const int32_t*, int64_t, int64_t, int64_t, void*);
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
    const Stored matrix{reinterpret_cast<const uint8_t*>(values.data()), factors.data(), out, in, to, step};
    fb_pack(pool, format, &matrix, 1);
  };
  const int64_t group = format == 3 ? 32 : 128;
  const std::vector<float> of_blocks(((out + 127) / 128) * ((in + 127) / 128), 1.0f);
  const std::vector<bf16> of_rows(out * ((in + group - 1) / group), to_bf16(1.0f));
  if (format == 0) pack(std::vector<bf16>(out * in, to_bf16(1.0f)), of_blocks);
  else if (format == 1) pack(std::vector<uint8_t>(out * in, 7 << 3), of_blocks);
  else if (format == 5) pack(std::vector<float>(out * in, 1.0f), of_blocks);
  else pack(std::vector<int8_t>(out * in, 1), of_rows);
}

template <class X>
X number(float x) {
  if constexpr (std::is_same_v<X, bf16>) return to_bf16(x);
  else return x;
}

inline float value_of(float x) { return x; }
inline float value_of(bf16 x) { return to_float(x); }

template <class X>
void linear(Pool* pool, int64_t format, int64_t rows, int64_t out, int64_t in) {
  const int64_t step = fb_panel_bytes(format, in);
  std::vector<uint8_t> packed((out + 63) / 64 * step);
  pack_ones(pool, format, out, in, packed.data(), step);
  const std::vector<X> x(rows * in, number<X>(0.5f));
  std::vector<X> y(rows * out);
  std::vector<Columns> columns;
  for (int32_t begin = 0; begin < out; begin += 64) columns.push_back({begin, std::min(64, int32_t(out) - begin)});
  const Linear call{pool, packed.data(), Format{format}, columns.data(), static_cast<int64_t>(columns.size()), out, in,
                    sizeof(X) == 2, x.data(), rows, y.data()};
  fb_linear(&call);
  for (const X& sum : y) expect(std::fabs(value_of(sum) / (0.5f * static_cast<float>(in)) - 1) < 0.01f, "linear is wrong");
}

template <class X>
void moe_ffn(Pool* pool, int64_t format, int64_t tokens, int64_t k, int64_t experts, int64_t hidden, int64_t inter,
             int64_t shared, Random& random) {
  const int64_t into = fb_panel_bytes(format, hidden);
  const auto gate_up = [&](int64_t width) { return 2 * ((width + 63) / 64) * into; };
  const auto size = [&](int64_t width) { return gate_up(width) + (hidden + 63) / 64 * fb_panel_bytes(format, width); };
  std::vector<uint8_t> packed(experts * size(inter) + size(shared));
  for (int64_t expert = 0; expert <= experts; ++expert) {
    const int64_t width = expert < experts ? inter : shared;
    uint8_t* place = packed.data() + expert * size(inter);
    pack_ones(pool, format, width, hidden, place, 2 * into);
    pack_ones(pool, format, width, hidden, place + into, 2 * into);
    pack_ones(pool, format, hidden, width, place + gate_up(width), fb_panel_bytes(format, width));
  }
  std::vector<int64_t> ids(tokens * k);
  for (auto& id : ids) id = random(static_cast<uint32_t>(experts));
  const std::vector<float> scores(tokens * k, 1.0f / static_cast<float>(k));
  const std::vector<X> x(tokens * hidden, number<X>(1.0f / static_cast<float>(hidden)));
  std::vector<X> y(tokens * hidden);
  const auto call = [&] {
    return fb_moe_ffn(pool, packed.data(), format, experts, hidden, inter, shared, 0, experts, sizeof(X) == 2, tokens, k,
                      x.data(), ids.data(), scores.data(), y.data());
  };
  const int64_t refused = call();
  expect(!refused, "moe_ffn refused good ids");
  const auto widths = static_cast<float>(inter + shared);
  const float expected = widths / (1 + std::exp(-1.0f));  // silu(1) * 1, summed over the widths
  for (const X& sum : y) expect(std::fabs(value_of(sum) / expected - 1) < 0.02f, "moe_ffn is wrong");
  if (!ids.empty()) {
    ids.back() = experts;
    expect(call() == 1, "moe_ffn took an expert that is none");
  }
}

// Every cached latent is one half, so that each output is half the sum of its row of W_UV, whatever the scores are.
template <class X>
void mla(Pool* pool, int64_t format, int64_t rows, int heads, int nope, int v, int latent, Random& random) {
  const int bits = 8 * static_cast<int>(random(3));  // of a cached latent
  const int rope = 1 + static_cast<int>(random(20)), inner = up(latent, attention::kValueStep);
  const int64_t key_panel = fb_panel_bytes(format, nope), value_panel = fb_panel_bytes(format, inner);
  const int64_t key_size = panels(latent) * key_panel, value_size = panels(v) * value_panel;
  std::vector<uint8_t> key(heads * key_size), value(heads * value_size);
  for (int head = 0; head < heads; ++head) {
    pack_ones(pool, format, latent, nope, key.data() + head * key_size, key_panel);
    pack_ones(pool, format, v, inner, value.data() + head * value_size, value_panel);
  }
  const attention::MlaWeights weights{key.data(), value.data(), Format{format}, heads, nope, rope, v, latent, bits, 0.1f};

  const int page_size = 1 + static_cast<int>(random(30)), most = 1 + static_cast<int>(random(200));
  const int64_t row_pages = (most + page_size - 1) / page_size, pages = rows * row_pages;
  std::vector<int32_t> table(pages), contexts(rows);
  for (int64_t page = 0; page < pages; ++page) table[page] = static_cast<int32_t>(pages - 1 - page);
  for (auto& context : contexts) context = 1 + static_cast<int32_t>(random(most));
  const CacheRow row{latent, rope, bits};
  const std::vector<X> values(latent + rope, number<X>(0.5f));
  std::vector<char> cache(pages * page_size * row.bytes<X>());
  for (size_t at = 0; at < cache.size(); at += row.bytes<X>()) row.encode(values.data(), cache.data() + at);
  std::vector<X> q(rows * heads * (nope + rope), number<X>(0.01f)), out(rows * heads * v);
  const int64_t q_head = nope + rope, q_token = heads * q_head;
  const auto check = [&](int refused) {
    expect(!refused, "attention refused good pages");
    // What pads the latents is multiplied by what follows them in the cache; it is zero but where all is one.
    const float sum = 0.5f * static_cast<float>(latent == inner ? latent : 0);
    for (const X& each : out) expect(!sum || std::fabs(value_of(each) / sum - 1) < 0.01f, "attention is wrong");
  };
  check(fb_mla_decode(pool, &weights, sizeof(X) == 2, q.data(), q_token, q_head, cache.data(), pages, page_size,
                      table.data(), row_pages, row_pages, contexts.data(), rows, out.data()));
  if (!rows) return;
  const int64_t tokens = std::min<int64_t>(rows, most);
  out.resize(tokens * heads * v);
  check(fb_mla_prefill(pool, &weights, sizeof(X) == 2, q.data(), q_token, q_head, cache.data(), pages, page_size,
                       table.data(), row_pages, most - tokens, tokens, out.data()));
  table[0] = static_cast<int32_t>(pages);
  expect(fb_mla_prefill(pool, &weights, sizeof(X) == 2, q.data(), q_token, q_head, cache.data(), pages, page_size,
                        table.data(), row_pages, 0, tokens, out.data()) == 2,
         "attention took a page that is none");
}

void everything(Pool* pool, uint32_t seed) {
  Random random{seed};
  for (const int64_t rows : {0, 1, 7, 70}) {
    const int heads = 1 + static_cast<int>(random(20));
    for (int64_t format = 0; format < 2; ++format) {
      mla<float>(pool, format, rows, heads, 128, 128, 64, random);
      mla<bf16>(pool, format, rows, heads, 128, 128, 160, random);
    }
    const int nope = 1 + static_cast<int>(random(40)), v = 1 + static_cast<int>(random(80));
    mla<float>(pool, 5, rows, heads, nope, v, 32 + static_cast<int>(random(40)), random);
    mla<float>(pool, 0, rows, heads, nope, v, 64, random);
    mla<bf16>(pool, 0, rows, heads, nope, v, 1 + static_cast<int>(random(90)), random);
  }
  for (int64_t format = 0; format < 6; ++format) {
    for (const int64_t rows : {0, 1, 3, 5, 6, 7, 13, 253}) {
      const int64_t out = 1 + random(200), in = 1 + random(300);
      linear<float>(pool, format, rows, out, in);
      linear<bf16>(pool, format, rows, out, in);
    }
    for (const int64_t tokens : {0, 1, 5, 30}) {
      const int64_t experts = 1 + random(5), k = 1 + random(3), hidden = 1 + random(150), inter = 1 + random(150);
      moe_ffn<float>(pool, format, tokens, k, experts, hidden, inter, random(2) * inter, random);
      moe_ffn<bf16>(pool, format, tokens, k, experts, hidden, inter, random(200), random);
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
