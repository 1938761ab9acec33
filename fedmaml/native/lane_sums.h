// The exact sum over vectors whose lanes are clients.

#pragma once

#include <cstring>

#include "lanes.h"

// The sum of a vector's numbers, by halves: they add without rounding, in any order.
inline double sum_of(const Doubles& numbers) {
  double part[DOUBLES];
  std::memcpy(part, &numbers, sizeof part);
#pragma GCC unroll 4
  for (int half = DOUBLES / 2; half > 0; half /= 2)
#pragma GCC unroll 4
    for (int i = 0; i < half; i++) part[i] += part[i + half];
  return part[0];
}

// Add weight * v of the lanes to sums: [limbs][entries], a vector of partial sums each. The first limb of
// numbers below half its grid is 0 and may be left out.
template <typename T, int first_limb>
void add_exactly(const Vec<T>* v, const double* weight, int64_t entries, Doubles* sums) {
  constexpr int halves = Lanes<T>::halves;
  Doubles w[halves];
  std::memcpy(w, weight, sizeof w);
  for (int64_t i = 0; i < entries; i++) {
    typename Lanes<T>::Half part[halves];
    std::memcpy(part, v + i, sizeof part);
    Doubles limbs[LIMBS] = {};
#pragma GCC unroll 2
    for (int half = 0; half < halves; half++) {
      Doubles rest = widened(part[half]) * w[half];
      settle(rest);
      rest = w[half] == 0.0 ? Doubles{} : rest;  // what is unsound may not be a number
#pragma GCC unroll 3
      for (int level = first_limb; level < LIMBS; level++) limbs[level] += take_limb(rest, level);
    }
#pragma GCC unroll 3
    for (int level = first_limb; level < LIMBS; level++) sums[level * entries + i] += limbs[level];
  }
}
