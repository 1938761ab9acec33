// Vectors as wide as the processor's registers, and exp, tanh and log of them, by polynomials.

#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "exact_sum.h"

template <typename T> struct Lanes;
template <> struct Lanes<float> {
  typedef float V __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t I __attribute__((vector_size(VECTOR_BYTES)));
  typedef float Half __attribute__((vector_size(VECTOR_BYTES / 2)));
  static constexpr int count = VECTOR_BYTES / 4, halves = 2, mantissa = 23, bias = 127, terms = 7, log_terms = 5;
  static constexpr float largest_exponent = 88.f;
};
template <> struct Lanes<double> {
  typedef double V __attribute__((vector_size(VECTOR_BYTES)));
  typedef int64_t I __attribute__((vector_size(VECTOR_BYTES)));
  typedef double Half __attribute__((vector_size(VECTOR_BYTES)));
  static constexpr int count = VECTOR_BYTES / 8, halves = 1, mantissa = 52, bias = 1023, terms = 13, log_terms = 11;
  static constexpr double largest_exponent = 709.;
};

template <typename T> using Vec = typename Lanes<T>::V;
template <typename T> using Int = typename Lanes<T>::I;
template <typename T> inline Vec<T> all(T value) { return Vec<T>{} + value; }
template <typename V> inline V larger(V a, V b) { return a > b ? a : b; }
template <typename V> inline V smaller(V a, V b) { return a < b ? a : b; }
template <typename V> inline V absolute(V a) { return a < 0 ? -a : a; }

// exp(x) = 2^n (1 + p), |x - n ln 2| <= ln 2 / 2, p by its Taylor series; NaN stays NaN.
template <typename T> inline void exponential(Vec<T> x, Vec<T>& power, Vec<T>& p) {
  typedef Lanes<T> L;
  Vec<T> bound = all<T>(L::largest_exponent);
  Vec<T> clipped = x > bound ? bound : (x < -bound ? -bound : x);
  Vec<T> shift = all<T>(T(1.5) * T(int64_t(1) << L::mantissa));
  Vec<T> n = (clipped * T(1.4426950408889634) + shift) - shift;
  constexpr T high = T(0.693359375), low = T(0.693147180559945309417232 - 0.693359375);
  Vec<T> r = (clipped - n * high) - n * low;
  T factorial = 1;
  for (int k = 2; k <= L::terms; k++) factorial *= k;
  Vec<T> series = all<T>(1 / factorial);
  for (int k = L::terms; k >= 2; k--) { factorial /= k; series = series * r + 1 / factorial; }
  p = series * r;
  Int<T> finite = x == x;
  Vec<T> safe = finite ? n : Vec<T>{};
  power = (Vec<T>)((__builtin_convertvector(safe, Int<T>) + L::bias) << L::mantissa);
}
template <typename T> inline Vec<T> vexp(Vec<T> x) {
  Vec<T> power, p;
  exponential<T>(x, power, p);
  return power + power * p;
}
template <typename T> inline Vec<T> vtanh(Vec<T> x) {
  Vec<T> power, p, magnitude = smaller(absolute(x), all<T>(20));
  magnitude = x == x ? magnitude : x;
  exponential<T>(magnitude * T(2), power, p);
  Vec<T> minus_one = power * p + (power - 1);  // exp(2|x|) - 1, accurate near 0
  Vec<T> t = minus_one / (minus_one + 2);
  return x < 0 ? -t : t;
}
// log of normal numbers: m 2^n with m in (1/sqrt 2, sqrt 2), log m = 2 artanh((m - 1) / (m + 1)).
template <typename T> inline Vec<T> vlog(Vec<T> x) {
  typedef Lanes<T> L;
  Int<T> bits = (Int<T>)x, root = (Int<T>)all<T>(T(0.70710678118654752));
  Int<T> n = (bits - root) >> L::mantissa;
  Vec<T> m = (Vec<T>)(bits - (n << L::mantissa)), s = (m - 1) / (m + 1), square = s * s;
  Vec<T> series = all<T>(T(1) / (2 * L::log_terms + 1));
  for (int k = L::log_terms - 1; k >= 0; k--) series = series * square + T(1) / (2 * k + 1);
  Vec<T> log = __builtin_convertvector(n, Vec<T>) * T(0.69314718055994531) + 2 * s * series;
  return x == x ? log : x;
}

// Lay one array per lane side by side, to[i][lane] = from[lane][i], in squares of as many entries as
// there are lanes; returns how many entries were laid, the rest is left. A square is transposed by
// exchanging, for each bit s of an index, the entries (i, j + s) and (i + s, j).
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
template <int s, bool lower, typename V, int... j>
inline V exchanged(V a, V b, std::integer_sequence<int, j...>) {
  constexpr int L = sizeof...(j);
  if constexpr (lower)
    return __builtin_shufflevector(a, b, ((j & s) ? L + j : j ^ s)...);
  else
    return __builtin_shufflevector(a, b, ((j & s) ? L + (j ^ s) : j)...);
}
template <int s, typename V, int L> inline void exchange(V (&square)[L]) {
  if constexpr (s < L) {
    constexpr auto indices = std::make_integer_sequence<int, L>();
#pragma GCC unroll 16
    for (int i = 0; i < L; i++) {
      if (i & s) continue;
      V a = square[i], b = square[i + s];
      square[i] = exchanged<s, false>(a, b, indices);
      square[i + s] = exchanged<s, true>(a, b, indices);
    }
    exchange<2 * s>(square);
  }
}
template <typename T> inline int64_t transpose(const T* const* from, Vec<T>* to, int64_t entries) {
  constexpr int L = Lanes<T>::count;
  int64_t done = 0;
  for (; done + L <= entries; done += L) {
    Vec<T> square[L];
#pragma GCC unroll 16
    for (int lane = 0; lane < L; lane++) std::memcpy(&square[lane], from[lane] + done, sizeof(Vec<T>));
    exchange<1>(square);
#pragma GCC unroll 16
    for (int i = 0; i < L; i++) to[done + i] = square[i];
  }
  return done;
}
// Undo it: to[lane][i] = from[i][lane].
template <typename T> inline int64_t part_again(const Vec<T>* from, T* const* to, int64_t entries) {
  constexpr int L = Lanes<T>::count;
  int64_t done = 0;
  for (; done + L <= entries; done += L) {
    Vec<T> square[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; i++) square[i] = from[done + i];
    exchange<1>(square);
#pragma GCC unroll 16
    for (int lane = 0; lane < L; lane++) std::memcpy(to[lane] + done, &square[lane], sizeof(Vec<T>));
  }
  return done;
}
#else
template <typename T> inline int64_t transpose(const T* const*, Vec<T>*, int64_t) { return 0; }
template <typename T> inline int64_t part_again(const Vec<T>*, T* const*, int64_t) { return 0; }
#endif
