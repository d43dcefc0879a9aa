#include "pool.h"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace fullbore {
namespace {

constexpr int kSpins = 2000;  // pauses; about 30 to 60 us

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void pin(int cpu) {
#if defined(__linux__)
  if (cpu < 0) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
#else
  (void)cpu;
#endif
}

}  // namespace

Pool::Pool(int threads, const int* cpus) : threads_(threads < 1 ? 1 : threads), buffers_(threads_), runs_(threads_) {
  for (int worker = 1; worker < threads_; ++worker) {
    const int cpu = cpus ? cpus[worker] : -1;
    workers_.emplace_back([this, worker, cpu] { loop(worker, cpu); });
  }
}

Pool::~Pool() {
  stop_ = true;
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (auto& worker : workers_) worker.join();
}

int Pool::Run::take(bool front) {
  uint64_t now = left.load(std::memory_order_relaxed);
  for (;;) {
    const auto begin = static_cast<uint32_t>(now), end = static_cast<uint32_t>(now >> 32);
    if (begin >= end) return -1;
    const uint64_t then = front ? now + 1 : now - (uint64_t{1} << 32);
    if (left.compare_exchange_weak(now, then, std::memory_order_relaxed)) return static_cast<int>(front ? begin : end - 1);
  }
}

void Pool::work(int worker) {
  for (int other = 0; other < threads_; ++other) {
    Run& run = runs_[(worker + other) % threads_];
    for (int task; (task = run.take(other == 0)) >= 0;) call_(context_, task, worker);
  }
}

void Pool::run_erased(int tasks, Call call, void* context) {
  std::lock_guard<std::mutex> lock(one_call_);
  if (threads_ == 1 || tasks <= 1) {
    for (int task = 0; task < tasks; ++task) call(context, task, 0);
    return;
  }
  call_ = call;
  context_ = context;
  for (int64_t worker = 0; worker < threads_; ++worker)
    runs_[worker].set(static_cast<uint32_t>(worker * tasks / threads_), static_cast<uint32_t>((worker + 1) * tasks / threads_));
  busy_.store(threads_ - 1, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();  // no system call where nobody sleeps
  work(0);
  // Every worker passes through before the call's context may go: a late one must not find the next call's.
  // Spinning for long would keep one that has lost its core to another process from getting this one.
  int spin = 0;
  for (int left; (left = busy_.load(std::memory_order_acquire));) {
    if (++spin < kSpins) pause_cpu();
    else busy_.wait(left, std::memory_order_acquire);
  }
}

void Pool::loop(int worker, int cpu) {
  pin(cpu);
  for (uint32_t seen = 0;;) {
    for (int spin = 0; generation_.load(std::memory_order_acquire) == seen;) {
      if (++spin < kSpins) pause_cpu();
      else generation_.wait(seen, std::memory_order_acquire);
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stop_) return;
    work(worker);
    if (busy_.fetch_sub(1, std::memory_order_release) == 1) busy_.notify_all();
  }
}

}  // namespace fullbore
