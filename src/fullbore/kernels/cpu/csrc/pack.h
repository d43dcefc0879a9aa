// A matrix as it is stored, on its way into panels.
#pragma once
#include <cstdint>

namespace fullbore {

// [out, in] in bfloat16, e4m3, int8 or float32; its factors, [ceil(out / 128), ceil(in / 128)] float32 of e4m3 and
// [out, ceil(in / group)] bfloat16 of whole numbers; and where its panels go, `step` bytes from one to the next.
struct Stored {
  const uint8_t* values;
  const void* factors;
  int64_t out, in;
  uint8_t* to;
  int64_t step;
};

}  // namespace fullbore
