// limbs[l][i] += limb l of weight[c] * vector[c][i], over all clients c.
//
// A tile of entries is summed over all clients before the next, so that its sums stay in registers.

#include "exact_sum.h"

#include <algorithm>
#include <cstring>

namespace {

constexpr int WIDTH = 8, TILE = 4 * WIDTH;

// Not inlined: a product and a sum must never become one fused operation, which rounds otherwise.
template <typename T>
__attribute__((noinline)) void weighted(const T* vector, double weight, int64_t count, double* out) {
  for (int64_t i = 0; i < count; i++) out[i] = double(vector[i]) * weight;
}

template <typename T>
void exact_sum(const T* vectors, const double* weight, int64_t clients, int64_t entries, double* limbs) {
  for (int64_t first = 0; first < entries; first += TILE) {
    int64_t count = std::min<int64_t>(TILE, entries - first);
    Doubles sums[LIMBS][TILE / WIDTH] = {};
    double products[TILE] = {};
    for (int64_t client = 0; client < clients; client++) {
      weighted(vectors + client * entries + first, weight[client], count, products);
      for (int part = 0; part < TILE / WIDTH; part++) {
        Doubles numbers;
        std::memcpy(&numbers, products + part * WIDTH, sizeof numbers);
        add_limbs(numbers, sums[0][part], sums[1][part], sums[2][part]);
      }
    }
    for (int level = 0; level < LIMBS; level++)
      for (int64_t i = 0; i < count; i++)
        limbs[level * entries + first + i] += sums[level][i / WIDTH][i % WIDTH];
  }
}

}  // namespace

extern "C" void exact_sum_float32(const float* vectors, const double* weight, int64_t clients,
                                  int64_t entries, double* limbs) {
  exact_sum(vectors, weight, clients, entries, limbs);
}
extern "C" void exact_sum_float64(const double* vectors, const double* weight, int64_t clients,
                                  int64_t entries, double* limbs) {
  exact_sum(vectors, weight, clients, entries, limbs);
}
