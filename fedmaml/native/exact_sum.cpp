// limbs[l][i] += limb l of weight[c] * vector[c][i], over all clients c. `stride` lies between limbs.
//
// A tile of entries is summed over all clients before the next, so that its sums stay in registers.

#include "exact_sum.h"

#include <algorithm>
#include <cstring>

namespace {

constexpr int TILE = 4 * DOUBLES;

// Not inlined: a product and a sum must never become one fused operation, which rounds otherwise.
template <typename T>
__attribute__((noinline)) void weighted(const T* vector, double weight, int64_t count, double* out) {
  for (int64_t i = 0; i < count; i++) out[i] = double(vector[i]) * weight;
}

// Nothing is written where all is zero, as the largest limbs of small numbers are: memory that the
// system holds as zeros then stays untouched, and costs nothing.
void add(const Doubles* sums, int64_t count, double* limbs) {
  Doubles squares = {};
  for (int part = 0; part < TILE / DOUBLES; part++) squares += sums[part] * sums[part];
  double total = 0, values[TILE];
  for (int i = 0; i < DOUBLES; i++) total += squares[i];
  if (total == 0) return;
  std::memcpy(values, sums, sizeof values);
  for (int64_t i = 0; i < count; i++) limbs[i] += values[i];
}

template <typename T>
void exact_sum(const T* vectors, const double* weight, int64_t clients, int64_t entries, int64_t stride,
               double* limbs) {
  double products[TILE] = {};  // past the last entry some of an earlier tile's, which are never stored
  for (int64_t first = 0; first < entries; first += TILE) {
    int64_t count = std::min<int64_t>(TILE, entries - first);
    Doubles sums[LIMBS][TILE / DOUBLES] = {};
    for (int64_t client = 0; client < clients; client++) {
      weighted(vectors + client * entries + first, weight[client], count, products);
      for (int part = 0; part < TILE / DOUBLES; part++) {
        Doubles numbers;
        std::memcpy(&numbers, products + part * DOUBLES, sizeof numbers);
#pragma GCC unroll 3
        for (int level = 0; level < LIMBS; level++) sums[level][part] += take_limb(numbers, level);
      }
    }
    for (int level = 0; level < LIMBS; level++) add(sums[level], count, limbs + level * stride + first);
  }
}

}  // namespace

extern "C" void exact_sum_float32(const float* vectors, const double* weight, int64_t clients,
                                  int64_t entries, int64_t stride, double* limbs) {
  exact_sum(vectors, weight, clients, entries, stride, limbs);
}
extern "C" void exact_sum_float64(const double* vectors, const double* weight, int64_t clients,
                                  int64_t entries, int64_t stride, double* limbs) {
  exact_sum(vectors, weight, clients, entries, stride, limbs);
}

// out[i] = the sum of the limbs of entry i, from small to large, over `weight`.
extern "C" void mean_of_limbs_float64(const double* limbs, int64_t entries, int64_t stride, double weight,
                                      double* out) {
  const double *large = limbs, *middle = limbs + stride, *small = limbs + 2 * stride;
  for (int64_t i = 0; i < entries; i++) out[i] = (small[i] + middle[i] + large[i]) / weight;
}
