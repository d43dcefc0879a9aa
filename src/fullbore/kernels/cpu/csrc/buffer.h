// Memory that grows to the largest size asked for and is kept for the next call.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <new>

namespace fullbore {

class alignas(64) Buffer {
 public:
  Buffer() = default;
  ~Buffer() { std::free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  // At least `bytes`, aligned to a page; what it held before is lost when it grows.
  void* at_least(size_t bytes) {
    if (bytes_ < bytes) {
      std::free(data_);
      bytes_ = (bytes + bytes / 2 + 4095) / 4096 * 4096;
      data_ = std::aligned_alloc(4096, bytes_);
      if (!data_) throw std::bad_alloc();
    }
    return data_;
  }

  template <class T>
  T* of(size_t count) {
    return static_cast<T*>(at_least(count * sizeof(T)));
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace fullbore
