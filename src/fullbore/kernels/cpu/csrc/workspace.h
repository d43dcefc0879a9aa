// Memory that a call needs for its intermediate results, kept from call to call: fresh pages cost more than
// the arithmetic of a short step.
#pragma once
#include <cstdlib>
#include <new>

namespace fullbore {

// Grows to the largest call there was. One for each thread that calls, so that calls do not share it.
class Workspace {
 public:
  static Workspace& mine() {
    static thread_local Workspace workspace;
    return workspace;
  }

  // Everything that one call takes, in one piece; what it held before is gone.
  void reserve(size_t bytes) {
    used_ = 0;
    if (bytes <= bytes_) return;
    std::free(data_);
    bytes_ = (bytes + bytes / 4 + kPage - 1) / kPage * kPage;
    data_ = static_cast<char*>(std::aligned_alloc(kPage, bytes_));
    if (!data_) {
      bytes_ = 0;
      throw std::bad_alloc();
    }
  }

  // The next `count` values of what was reserved, on a cache line.
  template <class T>
  T* take(size_t count) {
    T* const result = reinterpret_cast<T*>(data_ + used_);
    used_ += bytes_for<T>(count);
    return result;
  }

  template <class T>
  static size_t bytes_for(size_t count) {
    return (count * sizeof(T) + 63) / 64 * 64;
  }

 private:
  static constexpr size_t kPage = 4096;
  Workspace() = default;
  ~Workspace() { std::free(data_); }

  char* data_ = nullptr;
  size_t bytes_ = 0, used_ = 0;
};

}  // namespace fullbore
