// `latents`: normalised latents of the queries, and the cache's row of each token.
#include "api.h"
#include "cache_row.h"
#include "pointwise.h"

namespace fullbore {
namespace {

// x: rows `x_row` apart, with the queries' `q` values first (none: 0) and `latent` + 2 * `pairs` from `kv_at` on;
// cos, sin: [tokens][pairs]; kv_bits: as in CacheRow; cache: [slot_count] rows; out: [tokens][q].
struct Latents {
  Pool* pool;
  int64_t is_bf16;
  const void* x;
  int64_t x_row, kv_at;
  const float *q_norm, *kv_norm;
  float eps;
  int64_t q, latent, pairs, kv_bits;
  const float *cos, *sin;
  char* cache;
  int64_t slot_count;
  const int64_t* slots;
  int64_t tokens;
  void* out;
};

// to: what the cache keeps of a token, before it is encoded. kv: its latent, then its rotary key.
template <class In>
void cached_values(const Latents& call, const In* kv, int64_t token, In* to) {
  rms_norm_row(kv, call.kv_norm, call.eps, call.latent, to);
  const int64_t at = token * call.pairs;
  rope_row(kv + call.latent, call.cos + at, call.sin + at, call.pairs, to + call.latent);
}

template <class In>
void latents(const Latents& call) {
  const CacheRow row{static_cast<int>(call.latent), static_cast<int>(2 * call.pairs), static_cast<int>(call.kv_bits)};
  const int64_t width = row.latent + row.rope, bytes = row.bytes<In>();
  each_row(*call.pool, call.tokens, call.q + width, [&](int64_t token, int worker) {
    const In* const x = static_cast<const In*>(call.x) + token * call.x_row;
    if (call.q) rms_norm_row(x, call.q_norm, call.eps, call.q, static_cast<In*>(call.out) + token * call.q);
    char* const to = call.cache + call.slots[token] * bytes;
    if (row.as_activations<In>()) return cached_values(call, x + call.kv_at, token, reinterpret_cast<In*>(to));
    In* const values = static_cast<In*>(call.pool->scratch(worker, width * sizeof(In)));
    cached_values(call, x + call.kv_at, token, values);
    row.encode(values, to);
  });
}

}  // namespace
}  // namespace fullbore

using namespace fullbore;

// Nothing is written, and 1 returned, where a slot is none of the cache's.
FB_API int fb_latents(const Latents* call) {
  for (int64_t token = 0; token < call->tokens; ++token)
    if (call->slots[token] < 0 || call->slots[token] >= call->slot_count) return 1;
  (call->is_bf16 ? latents<bf16> : latents<float>)(*call);
  return 0;
}
