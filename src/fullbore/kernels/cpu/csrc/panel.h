// Rows x one panel of 64 outputs, over all inputs.
#pragma once
#include <concepts>
#include <type_traits>

#include "matrix.h"
#include "quantise.h"

namespace fullbore {

constexpr int kChunk = 252;  // rows at a time: their sums and their share of a block stay in the caches

// `rows` (at most kChunk) pointers `a` to activations of `in` values, readable up to an even number of them; the
// panel's blocks at `w` -> c: [rows][64]. A is float, or bf16 where there are dot products (kDots) and weights are bf16
// or fp8_block. `next`: the block that the thread will need after these, to be fetched meanwhile (any address will
// do: a fetch cannot fault).
template <class F, class A>
  requires std::is_arithmetic_v<A>
void multiply(const A* const* a, int rows, const uint8_t* w, int64_t in, float* c, const uint8_t* next);

// The same of quantised rows and whole numbers, where there are dot products of bytes (kByteDots).
template <class F, std::same_as<Quantised> A>
void multiply(const A* const* a, int rows, const uint8_t* w, int64_t in, float* c, const uint8_t* next);

}  // namespace fullbore
