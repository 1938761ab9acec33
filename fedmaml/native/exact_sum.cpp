// limbs[l][i] += limb l of weight[c] * vector[c][i], over all clients c. `stride` lies between limbs, and
// no product is above `largest`.
//
// A tile of entries is summed over all clients before the next, so that its sums stay in registers.

#include "exact_sum.h"

#include <algorithm>
#include <cstring>

namespace {

constexpr int PARTS = 4, TILE = PARTS * DOUBLES;

// The first limb of numbers below half its grid is 0 and may be left out.
template <typename T, int first_limb>
void exact_sum(const T* vectors, const double* weight, int64_t clients, int64_t entries, int64_t stride,
               double* limbs) {
  for (int64_t first = 0; first < entries; first += TILE) {
    int64_t count = std::min<int64_t>(TILE, entries - first);
    Doubles sums[LIMBS][PARTS] = {};
    for (int64_t client = 0; client < clients; client++) {
      const T* vector = vectors + client * entries + first;
      T last[TILE] = {};
      if (count < TILE) vector = (const T*)std::memcpy(last, vector, count * sizeof(T));
#pragma GCC unroll 4
      for (int part = 0; part < PARTS; part++) {
        Doubles rest = load(vector + part * DOUBLES) * weight[client];
        settle(rest);
#pragma GCC unroll 3
        for (int level = first_limb; level < LIMBS; level++) sums[level][part] += take_limb(rest, level);
      }
    }
    for (int level = first_limb; level < LIMBS; level++)
      add_unless_zero((const double*)sums[level], count, limbs + level * stride + first);
  }
}

template <typename T>
void exact_sum(const T* vectors, const double* weight, int64_t clients, int64_t entries, int64_t stride,
               double largest, double* limbs) {
  if (largest < SPACING[0] / 2)
    exact_sum<T, 1>(vectors, weight, clients, entries, stride, limbs);
  else
    exact_sum<T, 0>(vectors, weight, clients, entries, stride, limbs);
}

}  // namespace

extern "C" void exact_sum_float32(const float* vectors, const double* weight, int64_t clients,
                                  int64_t entries, int64_t stride, double largest, double* limbs) {
  exact_sum(vectors, weight, clients, entries, stride, largest, limbs);
}
extern "C" void exact_sum_float64(const double* vectors, const double* weight, int64_t clients,
                                  int64_t entries, int64_t stride, double largest, double* limbs) {
  exact_sum(vectors, weight, clients, entries, stride, largest, limbs);
}

// out[i] = the sum of the limbs of entry i, from small to large, over `weight`.
extern "C" void mean_of_limbs_float64(const double* limbs, int64_t entries, int64_t stride, double weight,
                                      double* out) {
  const double *large = limbs, *middle = limbs + stride, *small = limbs + 2 * stride;
  for (int64_t i = 0; i < entries; i++) out[i] = (small[i] + middle[i] + large[i]) / weight;
}
