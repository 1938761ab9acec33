// Sums that do not depend on order or grouping, to the last bit: see fedmaml/core/aggregation.py.
//
// A number is cut into three limbs, whole multiples of grids of spacing 2^5, 2^-27 and 2^-59; the limbs
// of many numbers add without rounding. Adding and subtracting 1.5 * 2^52 grid steps rounds to the grid.

#pragma once

#include <cstdint>

constexpr int LIMBS = 3;
constexpr double SPACING[LIMBS] = {0x1p5, 0x1p-27, 0x1p-59};

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif
constexpr int DOUBLES = VECTOR_BYTES / 8;

typedef double Doubles __attribute__((vector_size(VECTOR_BYTES)));

// Cut a limb off what is left of a vector of numbers.
inline Doubles take_limb(Doubles& rest, int level) {
  const double shift = 1.5 * 0x1p52 * SPACING[level];
  Doubles limb = (rest + shift) - shift;
  rest -= limb;
  return limb;
}
