// A convolution of few inputs and its 2 x 2 max-pooling in one go, so that its outputs z are never stored.
//
// Let x_t(i) be the number under tap t of a filter at pixel i. Then, for each filter with weights w,
//
//     z(i) = b + sum_t w_t x_t(i)          p(window) = z(place),  place = where z is largest
//
// and the derivative by w_t, given e = dL/dp, is the sum over windows of e(window) x_t(place). All else that
// normalisation between convolution and pooling needs follows from the sums over pixels of x_t and of
// x_t x_s: see fedmaml/computing/engines/factored/first_block.py.
//
// Vector lanes are filters. Images are padded beforehand and lie as (images, channels, height, width);
// weights as (taps, filters), with as many filters as fill whole groups of vectors; `pooled`, `places` and
// `e` as (images, rows, columns, filters), so with channels last. Steps between pixels are 1.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "exact_sum.h"

namespace {

constexpr int GROUP = 2;  // vectors of filters at a time: eight sums hide the latency of each

template <typename T>
struct Types {
  static constexpr int LANES = VECTOR_BYTES / sizeof(T);
  typedef T Vector __attribute__((vector_size(VECTOR_BYTES)));
  typedef decltype(Vector() > Vector()) Mask;  // of integers as wide as T
  typedef uint8_t Bytes __attribute__((vector_size(LANES)));
};

struct Geometry {
  int64_t images, channels, height, width, kernel_height, kernel_width, filters;
  int64_t rows() const { return (height - kernel_height + 1) / 2; }
  int64_t columns() const { return (width - kernel_width + 1) / 2; }

  // Return how far each tap is from the first.
  std::vector<int64_t> taps() const {
    std::vector<int64_t> found;
    for (int64_t channel = 0; channel < channels; channel++)
      for (int64_t row = 0; row < kernel_height; row++)
        for (int64_t column = 0; column < kernel_width; column++)
          found.push_back((channel * height + row) * width + column);
    return found;
  }
};

template <typename V, typename T>
V load(const T* from, int64_t lanes = sizeof(V) / sizeof(T)) {
  V values = {};
  if (lanes >= int64_t(sizeof(V) / sizeof(T)))
    std::memcpy(&values, from, sizeof values);
  else
    std::memcpy(&values, from, lanes * sizeof(T));
  return values;
}

template <typename V, typename T>
void store(V values, T* to, int64_t lanes) {
  if (lanes >= int64_t(sizeof(V) / sizeof(T)))
    std::memcpy(to, &values, sizeof values);
  else
    std::memcpy(to, &values, lanes * sizeof(T));
}

template <typename T>
void forward(const T* x, const T* weight, const T* bias, const Geometry& g, T* pooled, uint8_t* places) {
  using Vector = typename Types<T>::Vector;
  using Mask = typename Types<T>::Mask;
  constexpr int LANES = Types<T>::LANES, STEP = GROUP * LANES;
  const int64_t padded = (g.filters + STEP - 1) / STEP * STEP;
  const std::vector<int64_t> taps = g.taps();
  for (int64_t window = 0; window < g.images * g.rows() * g.columns(); window++) {
    int64_t column = window % g.columns(), above = window / g.columns();
    int64_t row = above % g.rows(), image = above / g.rows();
    const T* corner = x + (image * g.channels * g.height + 2 * row) * g.width + 2 * column;
    for (int64_t first = 0; first < g.filters; first += STEP) {
      Vector z[4][GROUP];
      for (int part = 0; part < GROUP; part++)
        z[0][part] = z[1][part] = z[2][part] = z[3][part] = load<Vector>(bias + first + part * LANES);
      for (size_t tap = 0; tap < taps.size(); tap++) {
        const T* at = corner + taps[tap];
        const T* weights = weight + tap * padded + first;
        for (int part = 0; part < GROUP; part++) {
          Vector w = load<Vector>(weights + part * LANES);
          z[0][part] += w * at[0];
          z[1][part] += w * at[1];
          z[2][part] += w * at[g.width];
          z[3][part] += w * at[g.width + 1];
        }
      }
      for (int part = 0; part < GROUP; part++) {
        int64_t filter = first + part * LANES, lanes = g.filters - filter;
        if (lanes <= 0) break;
        Vector largest = z[0][part];
        Mask place = {};
        for (int i = 1; i < 4; i++) {
          Mask larger = z[i][part] > largest;
          largest = larger ? z[i][part] : largest;
          place = larger ? Mask{} + i : place;
        }
        store(largest, pooled + window * g.filters + filter, lanes);
        store(__builtin_convertvector(place, typename Types<T>::Bytes),
              places + window * g.filters + filter, lanes);
      }
    }
  }
}

template <typename T>
void gradient(const T* x, const T* e, const uint8_t* places, const Geometry& g, double* sums) {
  using Vector = typename Types<T>::Vector;
  using Mask = typename Types<T>::Mask;
  constexpr int LANES = Types<T>::LANES;
  const std::vector<int64_t> taps = g.taps();
  std::vector<Vector> of_image(taps.size());
  for (int64_t image = 0; image < g.images; image++)
    for (int64_t first = 0; first < g.filters; first += LANES) {
      int64_t lanes = std::min<int64_t>(LANES, g.filters - first);
      std::fill(of_image.begin(), of_image.end(), Vector{});
      for (int64_t row = 0; row < g.rows(); row++)
        for (int64_t column = 0; column < g.columns(); column++) {
          int64_t entry = ((image * g.rows() + row) * g.columns() + column) * g.filters + first;
          Vector here = load<Vector>(e + entry, lanes), zero = {};
          Mask place = __builtin_convertvector(
              load<typename Types<T>::Bytes>(places + entry, lanes), Mask);
          Vector at_place[4];
          for (int i = 0; i < 4; i++) at_place[i] = place == i ? here : zero;
          const T* corner = x + (image * g.channels * g.height + 2 * row) * g.width + 2 * column;
          for (size_t tap = 0; tap < taps.size(); tap++) {
            const T* at = corner + taps[tap];
            of_image[tap] += (at_place[0] * at[0] + at_place[1] * at[1]) +
                             (at_place[2] * at[g.width] + at_place[3] * at[g.width + 1]);
          }
        }
      for (size_t tap = 0; tap < taps.size(); tap++)
        for (int64_t lane = 0; lane < lanes; lane++)
          sums[tap * g.filters + first + lane] += double(of_image[tap][lane]);
    }
}

// products[t][s] += sum over pixels of x_t x_s, for t <= s; sums[t] += sum of x_t.
template <typename T>
void products_of_taps(const T* x, const Geometry& g, double* products, double* sums) {
  const std::vector<int64_t> taps = g.taps();
  const int64_t size = g.channels * g.height * g.width, count = taps.size();
  const int64_t rows = g.height - g.kernel_height + 1, columns = g.width - g.kernel_width + 1;
  std::vector<double> image(size), ones(size, 1.0), of_column(columns);
  for (int64_t number = 0; number < g.images; number++) {
    std::copy(x + number * size, x + (number + 1) * size, image.begin());
    for (int64_t first = 0; first < count; first++)
      for (int64_t second = first; second <= count; second++) {
        const double* left = image.data() + taps[first];
        const double* right = second < count ? image.data() + taps[second] : ones.data();
        double* of = of_column.data();
        std::fill(of_column.begin(), of_column.end(), 0.0);
        for (int64_t row = 0; row < rows; row++, left += g.width, right += g.width)
          for (int64_t column = 0; column < columns; column++) of[column] += left[column] * right[column];
        double& total = second < count ? products[first * count + second] : sums[first];
        for (double value : of_column) total += value;
      }
  }
}

}  // namespace

extern "C" int64_t pooled_convolution_group_bytes() { return GROUP * VECTOR_BYTES; }

#define KERNELS(T, NAME)                                                                             \
  extern "C" void products_of_taps_##NAME(const T* x, const int64_t* sizes, double* products,        \
                                          double* sums) {                                            \
    products_of_taps(x, *reinterpret_cast<const Geometry*>(sizes), products, sums);                  \
  }                                                                                                  \
  extern "C" void pooled_convolution_##NAME(const T* x, const T* weight, const T* bias,              \
                                            const int64_t* sizes, T* pooled, uint8_t* places) {      \
    forward(x, weight, bias, *reinterpret_cast<const Geometry*>(sizes), pooled, places);             \
  }                                                                                                  \
  extern "C" void pooled_gradient_##NAME(const T* x, const T* e, const uint8_t* places,              \
                                         const int64_t* sizes, double* sums) {                       \
    gradient(x, e, places, *reinterpret_cast<const Geometry*>(sizes), sums);                         \
  }
KERNELS(float, float32)
KERNELS(double, float64)
