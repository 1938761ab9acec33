// Sums that do not depend on order or grouping, to the last bit: see fedmaml/core/aggregation.py.
//
// A number is cut into three limbs, whole multiples of grids of spacing 2^5, 2^-27 and 2^-59; the limbs
// of many numbers add without rounding. Adding and subtracting 1.5 * 2^52 grid steps rounds to the grid.

#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

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

// Let x be what it is: a product and a sum must never become one fused operation, which rounds otherwise.
inline void settle(Doubles& x) {
#if defined(__x86_64__)
  asm("" : "+v"(x));
#else
  asm("" : "+m"(x));
#endif
}

typedef float Floats __attribute__((vector_size(VECTOR_BYTES / 2)));
inline Doubles widened(Floats numbers) {
#if defined(__AVX512F__)
  return (Doubles)_mm512_cvtps_pd((__m256)numbers);  // of which gcc 12 makes six instructions by itself
#else
  return __builtin_convertvector(numbers, Doubles);
#endif
}
inline Doubles widened(Doubles numbers) { return numbers; }

inline Doubles load(const float* from) {
  Floats numbers;
  std::memcpy(&numbers, from, sizeof numbers);
  return widened(numbers);
}
inline Doubles load(const double* from) {
  Doubles numbers;
  std::memcpy(&numbers, from, sizeof numbers);
  return numbers;
}

// Nothing is written where all is zero, as the largest limbs of small numbers are: memory that the
// system holds as zeros then stays untouched, and costs nothing.
inline void add_unless_zero(const double* sums, int64_t count, double* limbs) {
  double squares = 0;
  Doubles all = {};
  int64_t i = 0;
  for (; i + DOUBLES <= count; i += DOUBLES) {
    Doubles some = load(sums + i);
    all += some * some;
  }
  for (; i < count; i++) squares += sums[i] * sums[i];
  for (int lane = 0; lane < DOUBLES; lane++) squares += all[lane];
  if (squares == 0) return;
  for (i = 0; i < count; i++) limbs[i] += sums[i];
}
