// The object itself: which sources it was made of, whether it may run, and the pool of threads that its kernels share.
#include <cstdint>

#if defined(__AMX_TILE__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#endif

#include "api.h"
#include "pool.h"

using namespace fullbore;

FB_API int64_t fb_abi() { return FB_ABI; }

// To be called before any kernel: 0, or the error number with which the system keeps this process from the registers.
// Linux lets a process use tiles when it has asked to, since they make the frames of its signals larger.
FB_API int64_t fb_enable() {
#if defined(__AMX_TILE__) && defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) ? errno : 0;
#else
  return 0;
#endif
}

FB_API Pool* fb_pool_new(int threads, const int* cpus) { return new Pool(threads, cpus); }

FB_API void fb_pool_free(Pool* pool) { delete pool; }
