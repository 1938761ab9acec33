// Products of small matrices whose elements are vectors.

#pragma once

#include <array>
#include <utility>

#include "lanes.h"

// Matrices of vectors: element (i, k) lies at data[i * outer + k * inner].
template <typename V> struct Matrix {
  const V* data;
  int outer, inner;
};

// C[m][n] = start + factor * sum over k of A(m, k) B(n, k); C is M x N, row by row. Start is nothing,
// what is in C, one value for each column, or another matrix laid out as C; factor is 1 but for OTHER.
enum Start { ZERO, OLD, COLUMNS, OTHER };
// What is done to C while it is in registers: nothing; relu; or relu's derivative, C is kept where
// another matrix, laid out as C, is positive.
enum Then { AS_IS, RELU, GATED };

// A tile of M x N sums stays in registers.
template <int M, int N, Start from, Then then, typename T>
void tile(Vec<T>* C, int stride, const Vec<T>* other, T factor, const Matrix<Vec<T>>& A,
          const Matrix<Vec<T>>& B, int K) {
  typedef Vec<T> V;
  V sum[M][N];
#pragma GCC unroll 5
  for (int m = 0; m < M; m++)
#pragma GCC unroll 5
    for (int n = 0; n < N; n++)
      sum[m][n] = from == OLD ? C[m * stride + n] : from == COLUMNS ? other[n] : V{};
  const V *a = A.data, *b = B.data;
  for (int k = 0; k < K; k++, a += A.inner, b += B.inner) {
    V column[N];
#pragma GCC unroll 5
    for (int n = 0; n < N; n++) column[n] = b[n * B.outer];
#pragma GCC unroll 5
    for (int m = 0; m < M; m++) {
      V value = a[m * A.outer];
#pragma GCC unroll 5
      for (int n = 0; n < N; n++) sum[m][n] += value * column[n];
    }
  }
#pragma GCC unroll 5
  for (int m = 0; m < M; m++)
#pragma GCC unroll 5
    for (int n = 0; n < N; n++) {
      int at = m * stride + n;
      V value = from == OTHER ? other[at] + factor * sum[m][n] : sum[m][n];
      if (then == RELU) value = value < 0 ? V{} : value;  // keeps NaN
      if (then == GATED) value = other[at] > 0 ? value : V{};
      C[at] = value;
    }
}

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int SIDE = 5;  // 25 sums and their factors fill 32 registers
#else
constexpr int SIDE = 3;  // 16 registers
#endif

template <Start from, Then then, typename T, int... index>
constexpr auto tiles(std::integer_sequence<int, index...>) {
  return std::array{tile<index / SIDE + 1, index % SIDE + 1, from, then, T>...};
}
// "other" is what Start or Then refer to.
template <Start from, Then then, typename T>
void multiply(Vec<T>* C, Matrix<Vec<T>> A, Matrix<Vec<T>> B, int M, int N, int K,
              const Vec<T>* other = nullptr, T factor = 1) {
  constexpr bool as_C = from == OTHER || then == GATED;
  static constexpr auto table = tiles<from, then, T>(std::make_integer_sequence<int, SIDE * SIDE>());
  int down = (M + SIDE - 1) / SIDE, across = (N + SIDE - 1) / SIDE;  // tiles of nearly equal size
  for (int i = 0, m = 0; i < down; i++) {
    int height = (M - m + down - i - 1) / (down - i);
    Matrix<Vec<T>> columns = B;
    for (int j = 0, n = 0; j < across; j++) {
      int width = (N - n + across - j - 1) / (across - j);
      table[(height - 1) * SIDE + width - 1](C + n, N, other + n, factor, A, columns, K);
      columns.data += width * B.outer;
      n += width;
    }
    A.data += height * A.outer;
    C += height * N;
    other += as_C ? height * N : 0;
    m += height;
  }
}
