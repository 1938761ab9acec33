// limbs[l][i] += limb l of weight[c] * vector[c][i], over all clients c. `stride` lies between limbs, and
// no product is above `largest`.
//
// A tile of entries is summed over all clients before the next, so that its sums stay in registers.

#include "exact_sum.h"

#include <algorithm>
#include <cstring>

namespace {

constexpr int PARTS = 4, TILE = PARTS * DOUBLES;

// Let x be what it is: a product and a sum must never become one fused operation, which rounds otherwise.
inline void settle(Doubles& x) {
#if defined(__x86_64__)
  asm("" : "+v"(x));
#else
  asm("" : "+m"(x));
#endif
}

template <typename T> inline Doubles load(const T* from) {
  typedef T Numbers __attribute__((vector_size(DOUBLES * sizeof(T))));
  Numbers numbers;
  std::memcpy(&numbers, from, sizeof numbers);
  return __builtin_convertvector(numbers, Doubles);
}

// Nothing is written where all is zero, as the largest limbs of small numbers are: memory that the
// system holds as zeros then stays untouched, and costs nothing.
void add(const Doubles* sums, int64_t count, double* limbs) {
  Doubles squares = {};
  for (int part = 0; part < PARTS; part++) squares += sums[part] * sums[part];
  double total = 0, values[TILE];
  for (int i = 0; i < DOUBLES; i++) total += squares[i];
  if (total == 0) return;
  std::memcpy(values, sums, sizeof values);
  for (int64_t i = 0; i < count; i++) limbs[i] += values[i];
}

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
      add(sums[level], count, limbs + level * stride + first);
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
