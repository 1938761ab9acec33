// The updates of a large weight, client by client, from their factors: formed, or cut into limbs and added.
//
//     update_c = scale * left_c' right_c + base        left: (clients, rank, outputs), right: (.., inputs)
//
// A tile of rows and columns is computed in registers and goes straight to where it is wanted, so that the
// updates, clients times parameters, are never stored. A number is rounded the same way in both functions,
// whoever the other clients are.
//
// A block of 16 rows and 64 columns (in float) is finished for all clients before the next: its sums stay in
// the first cache, the factors of a span of columns in the second.

#include <algorithm>
#include <cstring>
#include <vector>

#include "exact_sum.h"

namespace {

constexpr int ROWS = 4, VECTORS = 4;  // of a tile: 16 sums, which hide each other's latency
constexpr int BLOCK_ROWS = 4 * ROWS, BLOCKS = 8;

template <typename T> struct Tile {
  typedef T V __attribute__((vector_size(VECTOR_BYTES)));
  V number[ROWS][VECTORS];
};

template <typename T> struct Factors {
  typedef typename Tile<T>::V V;
  static constexpr int LANES = VECTOR_BYTES / sizeof(T), COLUMNS = VECTORS * LANES;
  const T *left, *right, *base;  // base: (outputs, inputs), or null
  T scale;
  int64_t clients, rank, outputs, inputs;

  // Give every block to a sink: begin(), tile(client, its first row in the block, tile) for all of its
  // tiles, end(). What lies past the last row or column is of no meaning.
  template <typename Sink> void compute(Sink& sink) const {
    int64_t terms = clients * rank, span = std::min<int64_t>(BLOCKS, (inputs + COLUMNS - 1) / COLUMNS) * COLUMNS;
    std::vector<T> rows((outputs + BLOCK_ROWS - 1) / BLOCK_ROWS * terms * BLOCK_ROWS), columns(terms * span);
    for (int64_t term = 0; term < terms; term++)
      for (int64_t row = 0; row < outputs; row++)
        rows[(row / BLOCK_ROWS * terms + term) * BLOCK_ROWS + row % BLOCK_ROWS] = left[term * outputs + row];
    for (int64_t start = 0; start < inputs; start += span) {
      int64_t stop = std::min(inputs, start + span);
      for (int64_t term = 0; term < terms; term++)
        for (int64_t column = start; column < stop; column += COLUMNS)
          std::copy_n(right + term * inputs + column, std::min<int64_t>(COLUMNS, stop - column),
                      &columns[((column - start) / COLUMNS * terms + term) * COLUMNS]);
      for (int64_t row = 0; row < outputs; row += BLOCK_ROWS)
        for (int64_t column = start; column < stop; column += COLUMNS) {
          int64_t height = std::min<int64_t>(BLOCK_ROWS, outputs - row);
          int64_t width = std::min<int64_t>(COLUMNS, stop - column);
          sink.begin(row, column, height, width);
          for (int64_t client = 0; client < clients; client++)
            for (int first = 0; first < height; first += ROWS) {
              const T* r = &rows[(row / BLOCK_ROWS * terms + client * rank) * BLOCK_ROWS + first];
              Tile<T> tile = product(r, &columns[((column - start) / COLUMNS * terms + client * rank) * COLUMNS]);
              if (scale != 1 || base) finish(row + first, column, width, tile);
              sink.tile(client, first, tile);
            }
          sink.end();
        }
    }
  }

 private:
  Tile<T> product(const T* r, const T* c) const {
    V sum[ROWS][VECTORS] = {};
    for (int64_t k = 0; k < rank; k++, r += BLOCK_ROWS, c += COLUMNS) {
      V column[VECTORS];
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; v++) std::memcpy(&column[v], c + v * LANES, sizeof column[v]);
#pragma GCC unroll 4
      for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) sum[row][v] += r[row] * column[v];
    }
    Tile<T> tile;
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; v++) tile.number[row][v] = sum[row][v];
    return tile;
  }

  void finish(int64_t row, int64_t column, int64_t width, Tile<T>& tile) const {
    for (int i = 0; i < std::min<int64_t>(ROWS, outputs - row); i++) {
      V more[VECTORS] = {};
      if (base) std::memcpy(more, base + (row + i) * inputs + column, width * sizeof(T));
      for (int v = 0; v < VECTORS; v++) tile.number[i][v] = tile.number[i][v] * scale + more[v];
    }
  }
};

template <typename T> struct Stack {  // (clients, outputs, inputs)
  const Factors<T>& factors;
  T* numbers;
  int64_t row, column, height, width;

  void begin(int64_t r, int64_t c, int64_t h, int64_t w) { row = r, column = c, height = h, width = w; }
  void tile(int64_t client, int first, const Tile<T>& tile) {
    for (int i = 0; i < std::min<int64_t>(ROWS, height - first); i++) {
      int64_t at = (client * factors.outputs + row + first + i) * factors.inputs + column;
      std::memcpy(numbers + at, tile.number[i], width * sizeof(T));
    }
  }
  void end() {}
};

// The first limb of numbers below half its grid is 0 and may be left out.
template <typename T, int first_limb> struct Limbs {  // [limbs][outputs][inputs], `stride` between limbs
  static constexpr int PARTS = Factors<T>::COLUMNS / DOUBLES;
  const Factors<T>& factors;
  const double* weight;
  int64_t stride;
  double* limbs;
  int64_t row, column, height, width;
  Doubles sums[LIMBS][BLOCK_ROWS][PARTS];

  void begin(int64_t r, int64_t c, int64_t h, int64_t w) {
    row = r, column = c, height = h, width = w;
    std::memset((void*)sums[first_limb], 0, (LIMBS - first_limb) * sizeof sums[0]);
  }
  void tile(int64_t client, int first, const Tile<T>& tile) {
    double own = weight[client];
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 8
      for (int part = 0; part < PARTS; part++) {
        Doubles rest = load((const T*)tile.number[i] + part * DOUBLES) * own;
        settle(rest);
#pragma GCC unroll 3
        for (int level = first_limb; level < LIMBS; level++)
          sums[level][first + i][part] += take_limb(rest, level);
      }
  }
  void end() {
    for (int level = first_limb; level < LIMBS; level++)
      for (int i = 0; i < height; i++)
        add_unless_zero((const double*)sums[level][i], width,
                        limbs + level * stride + (row + i) * factors.inputs + column);
  }
};

template <typename T> void form(const Factors<T>& factors, T* numbers) {
  Stack<T> stack{factors, numbers};
  factors.compute(stack);
}

template <typename T>
void add(const Factors<T>& factors, const double* weight, int64_t stride, double largest, double* limbs) {
  if (largest < SPACING[0] / 2) {
    Limbs<T, 1> sink{factors, weight, stride, limbs};
    factors.compute(sink);
  } else {
    Limbs<T, 0> sink{factors, weight, stride, limbs};
    factors.compute(sink);
  }
}

}  // namespace

#define LOW_RANK(T, NAME)                                                                                   \
  extern "C" void form_low_rank_##NAME(const T* left, const T* right, const T* base, int64_t has_base,      \
                                       double scale, int64_t clients, int64_t rank, int64_t outputs,        \
                                       int64_t inputs, T* stack) {                                          \
    form<T>({left, right, has_base ? base : nullptr, T(scale), clients, rank, outputs, inputs}, stack);     \
  }                                                                                                         \
  extern "C" void add_low_rank_##NAME(const T* left, const T* right, const T* base, int64_t has_base,       \
                                      double scale, int64_t clients, int64_t rank, int64_t outputs,         \
                                      int64_t inputs, const double* weight, int64_t stride, double largest, \
                                      double* limbs) {                                                      \
    add<T>({left, right, has_base ? base : nullptr, T(scale), clients, rank, outputs, inputs}, weight,      \
           stride, largest, limbs);                                                                         \
  }
LOW_RANK(float, float32)
LOW_RANK(double, float64)
