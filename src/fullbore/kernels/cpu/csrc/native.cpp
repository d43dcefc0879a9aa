// The object itself: which sources it was made of, and the pool of threads that its kernels share.
#include <cstdint>

#include "api.h"
#include "pool.h"

using namespace fullbore;

FB_API int64_t fb_abi() { return FB_ABI; }

FB_API Pool* fb_pool_new(int threads, const int* cpus) { return new Pool(threads, cpus); }

FB_API void fb_pool_free(Pool* pool) { delete pool; }
