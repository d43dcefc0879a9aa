// `mla_decode` and `mla_prefill`: requests become spans of tokens, checked before anything is read.
#include "api.h"
#include "mla.h"

namespace fullbore::attention {
namespace {

#if defined(__AVX512BF16__)
using Short = Bf16Dots;
#else
using Short = Fp32Dots;  // bfloat16 stored, float32 computed
#endif

enum Fault : int { kNone = 0, kNoKeys = 1, kNoSuchPage = 2, kNoMemory = 3 };

struct Call {
  Pool& pool;
  const MlaWeights& weights;
  int64_t q_token, q_head;
  const void *q, *cache;
  int64_t pages, page_size;
  int64_t row_pages;  // page numbers that each request has
  void* out;
};

Fault check(const Call& call, const Span& span) {
  if (span.first < 0) return kNoKeys;
  const int64_t needed = (span.first + span.tokens + call.page_size - 1) / call.page_size;
  if (needed > call.row_pages) return kNoSuchPage;
  for (int64_t i = 0; i < needed; ++i)
    if (span.pages[i] < 0 || span.pages[i] >= call.pages) return kNoSuchPage;
  return kNone;
}

// As many spans at once as fit; a span longer than that in pieces (a row's bits do not depend on either).
template <class A, class In>
void run(const Call& call, const std::vector<Span>& spans) {
  const Inputs<In> in{static_cast<const In*>(call.q), call.q_token,  call.q_head, static_cast<const char*>(call.cache),
                      static_cast<int>(call.page_size), static_cast<In*>(call.out)};
  Mla<A, In> mla(call.pool, call.weights, in);
  const int most = mla.most_tokens();
  std::vector<Span> now;
  int begin = 0, tokens = 0;
  auto flush = [&] {
    if (tokens) mla.run(now, begin);
    begin += tokens;
    tokens = 0;
    now.clear();
  };
  for (const Span& span : spans) {
    for (int done = 0; done < span.tokens;) {
      if (tokens == most) flush();
      const int n = std::min(span.tokens - done, most - tokens);
      now.push_back({span.pages, span.first + done, n});
      tokens += n;
      done += n;
    }
  }
  flush();
}

int run(const Call& call, const std::vector<Span>& spans, bool is_bf16) {
  for (const Span& span : spans)
    if (const Fault fault = check(call, span)) return fault;
  try {
    if (is_bf16) run<Short, bf16>(call, spans);
    else run<Fp32Dots, float>(call, spans);
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  }
  return kNone;
}

}  // namespace
}  // namespace fullbore::attention

using namespace fullbore;
using namespace fullbore::attention;

// Values that one lane takes at once in the arithmetic of bfloat16 activations: 2, or 1 where it is float32's.
FB_API int fb_mla_pair() { return Short::kPair; }

// Both return 0, or what is wrong: 1 a row without keys, 2 a page that the cache does not have, 3 no memory.

// table: [rows][row_pages] page numbers, rows `table_row` apart; contexts: [rows] keys of each, its own included.
FB_API int fb_mla_decode(Pool* pool, const MlaWeights* weights, int64_t is_bf16, const void* q, int64_t q_token,
                         int64_t q_head, const void* cache, int64_t pages, int64_t page_size, const int32_t* table,
                         int64_t row_pages, int64_t table_row, const int32_t* contexts, int64_t rows, void* out) {
  std::vector<Span> spans;
  spans.reserve(rows);
  for (int64_t row = 0; row < rows; ++row) spans.push_back({table + row * table_row, contexts[row] - 1, 1});
  return run({*pool, *weights, q_token, q_head, q, cache, pages, page_size, row_pages, out}, spans, is_bf16);
}

// page_numbers: [row_pages], of the one request, whose `tokens` follow `first` others.
FB_API int fb_mla_prefill(Pool* pool, const MlaWeights* weights, int64_t is_bf16, const void* q, int64_t q_token,
                          int64_t q_head, const void* cache, int64_t pages, int64_t page_size,
                          const int32_t* page_numbers, int64_t row_pages, int64_t first, int64_t tokens, void* out) {
  const Span span{page_numbers, static_cast<int>(first), static_cast<int>(tokens)};
  return run({*pool, *weights, q_token, q_head, q, cache, pages, page_size, row_pages, out}, {span}, is_bf16);
}
