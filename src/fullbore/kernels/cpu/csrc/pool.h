// One pool of threads for a process. Each thread works through a run of consecutive tasks from its front, since
// what follows in memory is fetched ahead; one that has finished takes from the back of another's run.
//
// A task writes what no other task of the call writes, so results do not depend on the number of threads.
// Workers spin for some tens of microseconds after a call, since the next one of the step follows at once
// (waking a sleeping thread takes about 50 us, a spinning one about 1), then sleep until they are needed.
#pragma once
#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#include "buffer.h"

namespace fullbore {

class Pool {
 public:
  // `cpus[i]`: where worker i runs (worker 0 is the caller and stays where it is); null for anywhere.
  Pool(int threads, const int* cpus);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  // body(task, worker) for every task in [0, tasks), worker in [0, threads). Returns when all are done.
  template <class Body>
  void run(int tasks, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    run_erased(tasks, [](void* context, int task, int worker) { (*static_cast<Plain*>(context))(task, worker); },
               const_cast<void*>(static_cast<const void*>(&body)));
  }

  // At least `bytes` of 64-byte aligned memory that belongs to `worker` until it asks again.
  void* scratch(int worker, size_t bytes) { return buffers_[worker].at_least(bytes); }

 private:
  using Call = void (*)(void* context, int task, int worker);
  // Tasks [begin, end) that nobody took yet, as one word: the owner raises begin, others lower end.
  struct alignas(64) Run {
    std::atomic<uint64_t> left{0};

    void set(uint32_t begin, uint32_t end) { left.store(uint64_t{end} << 32 | begin, std::memory_order_relaxed); }
    int take(bool front);  // a task, or -1
  };

  void run_erased(int tasks, Call call, void* context);
  void work(int worker);
  void loop(int worker, int cpu);

  const int threads_;
  std::vector<std::thread> workers_;
  std::vector<Buffer> buffers_;
  std::mutex one_call_;  // calls from two threads take turns
  Call call_ = nullptr;
  void* context_ = nullptr;
  std::vector<Run> runs_;  // of each worker
  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<int> busy_{0};
  bool stop_ = false;
};

}  // namespace fullbore
