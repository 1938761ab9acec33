// The exact sum over vectors whose lanes are clients.

#pragma once

#include <cstring>

#include "lanes.h"

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
