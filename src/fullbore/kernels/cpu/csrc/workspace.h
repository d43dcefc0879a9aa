// Intermediate results of a call, kept from call to call: fresh pages cost more than a short step's arithmetic.
#pragma once
#include "buffer.h"

namespace fullbore {

// One for each thread that calls, so that calls do not share it.
class Workspace {
 public:
  static Workspace& mine() {
    static thread_local Workspace workspace;
    return workspace;
  }

  // Everything that one call takes, in one piece; what it held before is gone.
  void reserve(size_t bytes) { next_ = buffer_.of<char>(bytes); }

  // The next `count` values of what was reserved, on a cache line.
  template <class T>
  T* take(size_t count) {
    T* const result = reinterpret_cast<T*>(next_);
    next_ += bytes_for<T>(count);
    return result;
  }

  template <class T>
  static size_t bytes_for(size_t count) {
    return (count * sizeof(T) + 63) / 64 * 64;
  }

 private:
  Workspace() = default;

  Buffer buffer_;
  char* next_ = nullptr;
};

}  // namespace fullbore
