// Sums that do not depend on order or grouping, to the last bit: see fedmaml/core/aggregation.py.
//
// A number is cut into three limbs, whole multiples of grids of spacing 2^5, 2^-27 and 2^-59; the limbs
// of many numbers add without rounding. Adding and subtracting 1.5 * 2^52 grid steps rounds to the grid.

#pragma once

#include <cstdint>

constexpr int LIMBS = 3;
constexpr double SPACING[LIMBS] = {0x1p5, 0x1p-27, 0x1p-59};

typedef double Doubles __attribute__((vector_size(64)));  // 8 of them

// Add a vector of numbers to its three sums.
inline void add_limbs(Doubles rest, Doubles& high, Doubles& middle, Doubles& low) {
  Doubles* sum[LIMBS] = {&high, &middle, &low};
#pragma GCC unroll 3
  for (int level = 0; level < LIMBS; level++) {
    const double shift = 1.5 * 0x1p52 * SPACING[level];
    Doubles limb = (rest + shift) - shift;
    *sum[level] += limb;
    rest -= limb;
  }
}
