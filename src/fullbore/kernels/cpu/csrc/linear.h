// What `linear` is given: one struct, which Python packs at once.
#pragma once
#include "matrix.h"
#include "pool.h"

namespace fullbore {

// Which of y's columns a panel makes. Not its number times 64: each of several matrices begins a panel of its own.
struct Columns {
  int32_t begin, count;
};

// x: [rows][in]; packed: all panels, one after the other; columns: [panels]; y: [rows][out].
struct Linear {
  Pool* pool;
  const uint8_t* packed;
  Format format;
  const Columns* columns;
  int64_t panels, out, in;
  int64_t is_bf16;  // x and y, else float32
  const void* x;
  int64_t rows;
  void* y;
};

}  // namespace fullbore
