// Whole numbers in panels to bfloat16, which holds those of 8 bits exactly: for activations that stay floats.
#pragma once
#include "matrix.h"

namespace fullbore {

// Bits `shift` to `shift` + kBits of the 4 bytes of each word, a quad of inputs -> its first and its second pair.
template <int kBits>
inline void numbers(vu words, int shift, vu& first, vu& second) {
  constexpr int kMask = (1 << kBits) - 1;
  vu bits[4];
  for (int input = 0; input < 4; ++input) {
    const vi number = reinterpret_cast<vi>(words >> (8 * input + shift) & kMask) - (1 << (kBits - 1));
    bits[input] = reinterpret_cast<vu>(__builtin_convertvector(number, vf));
  }
  first = bits[0] >> 16 | bits[1];  // the lower half of such a small number's float32 is zero
  second = bits[2] >> 16 | bits[3];
}

// A block -> [64 pairs][64 outputs][2] bfloat16, without its factors.
template <int kBits, int kGroup>
inline void decode_block(Integers<kBits, kGroup>, const uint8_t* block, bf16* pairs) {
  constexpr int kWords = kPanel * kBits / 8;  // of a quad of inputs
  for (int quad = 0; quad < kBlock / 4; ++quad) {
    bf16* const to = pairs + quad * 4 * kPanel;
    for (int word = 0; word < kWords; word += W) {
      vu words, first, second;
      memcpy(&words, block + (quad * kWords + word) * 4, sizeof words);
      for (int shift = 0; shift < 8; shift += kBits) {
        const int output = kBits == 8 ? word : word / 16 * 32 + word % 16 + 4 * shift;
        numbers<kBits>(words, shift, first, second);
        memcpy(to + output * 2, &first, sizeof first);
        memcpy(to + (kPanel + output) * 2, &second, sizeof second);
      }
    }
  }
}

}  // namespace fullbore
