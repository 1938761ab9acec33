// Group normalisation with the max-pooling after it, on images with channels last, one image at a time.
//
// With m and r the mean and 1 / deviation of the group of a channel c, and p the largest z of a window,
//
//     h = (p - m) r      y = scale_c h + shift_c
//     dz = r (q - sum(q) / n - (z - m) r * sum(q h) / n)         q = scale_c dL/dy at the places of p
//
// with sums over the n numbers of a group. Scales are positive, so the largest of a window may be found
// before normalisation. An image stays in the cache meanwhile. Sums are in float64.
// See fedmaml/computing/engines/factored/group_block.py.

#include <cmath>
#include <cstdint>
#include <vector>

namespace {

struct Sizes {
  int64_t images, height, width, channels, groups, pool;
  int64_t rows() const { return height / pool; }
  int64_t columns() const { return width / pool; }
  int64_t pixels() const { return height * width; }
  int64_t of_group() const { return channels / groups; }
};

// Replaces the numbers of a group's channels by their mean.
void mean_of_groups(const Sizes& sizes, std::vector<double>& values) {
  for (int64_t first = 0; first < sizes.channels; first += sizes.of_group()) {
    double total = 0;
    for (int64_t c = first; c < first + sizes.of_group(); c++) total += values[c];
    for (int64_t c = first; c < first + sizes.of_group(); c++) values[c] = total / sizes.of_group();
  }
}

template <typename T>
void statistics(const T* z, const Sizes& sizes, double eps, std::vector<double>& mean,
                std::vector<double>& inverse) {
  int64_t channels = sizes.channels;
  std::vector<double> sums(channels), squares(channels), own(channels);
  for (int64_t pixel = 0; pixel < sizes.pixels(); pixel++)
    for (int64_t c = 0; c < channels; c++) {
      double difference = double(z[pixel * channels + c]) - double(z[c]);
      sums[c] += difference;
      squares[c] += difference * difference;
    }
  for (int64_t c = 0; c < channels; c++) {
    double shift = sums[c] / sizes.pixels();
    mean[c] = own[c] = double(z[c]) + shift;
    inverse[c] = squares[c] / sizes.pixels() - shift * shift;
  }
  mean_of_groups(sizes, mean);
  for (int64_t c = 0; c < channels; c++) inverse[c] += (own[c] - mean[c]) * (own[c] - mean[c]);
  mean_of_groups(sizes, inverse);
  for (int64_t c = 0; c < channels; c++) inverse[c] = 1 / std::sqrt(inverse[c] + eps);
}

template <typename T>
void forward(const T* z, Sizes sizes, double eps, const T* scale, const T* shift, T* normalised, T* y,
             int32_t* places, T* means, T* inverses) {
  int64_t channels = sizes.channels;
  std::vector<double> mean(channels), inverse(channels);
  for (int64_t image = 0; image < sizes.images; image++, z += sizes.pixels() * channels) {
    statistics(z, sizes, eps, mean, inverse);
    for (int64_t c = 0; c < channels; c++) {
      *means++ = T(mean[c]);
      *inverses++ = T(inverse[c]);
    }
    const T *m = means - channels, *r = inverses - channels;
    for (int64_t row = 0; row < sizes.rows(); row++)
      for (int64_t column = 0; column < sizes.columns(); column++) {
        int64_t corner = row * sizes.pool * sizes.width + column * sizes.pool;
        for (int64_t c = 0; c < channels; c++) {
          normalised[c] = z[corner * channels + c];
          places[c] = int32_t(corner);
        }
        for (int64_t i = 0; i < sizes.pool; i++)
          for (int64_t j = 0; j < sizes.pool; j++) {
            int32_t pixel = int32_t(corner + i * sizes.width + j);
            const T* values = z + pixel * channels;
            for (int64_t c = 0; c < channels; c++) {
              bool larger = values[c] > normalised[c] || values[c] != values[c];  // NaN is kept
              normalised[c] = larger ? values[c] : normalised[c];
              places[c] = larger ? pixel : places[c];
            }
          }
        for (int64_t c = 0; c < channels; c++) {
          normalised[c] = (normalised[c] - m[c]) * r[c];
          y[c] = scale[c] * normalised[c] + shift[c];
        }
        normalised += channels;
        y += channels;
        places += channels;
      }
  }
}

template <typename T>
void backward(T* z, Sizes sizes, const T* scale, const T* normalised, const T* e, const int32_t* places,
              const T* means, const T* inverses, double* of_scale, double* of_shift) {
  int64_t channels = sizes.channels, windows = sizes.rows() * sizes.columns();
  std::vector<double> level(channels), slope(channels);
  std::vector<T> a(channels), b(channels), factor(channels);
  for (int64_t image = 0; image < sizes.images; image++) {
    for (int64_t c = 0; c < channels; c++) level[c] = slope[c] = 0;
    for (int64_t window = 0; window < windows; window++)
      for (int64_t c = 0; c < channels; c++) {
        double derivative = e[window * channels + c];
        level[c] += derivative;
        slope[c] += derivative * normalised[window * channels + c];
      }
    for (int64_t c = 0; c < channels; c++) {
      of_shift[c] += level[c];
      of_scale[c] += slope[c];
      level[c] *= scale[c];
      slope[c] *= scale[c];
    }
    mean_of_groups(sizes, level);
    mean_of_groups(sizes, slope);
    for (int64_t c = 0; c < channels; c++) {
      double r = inverses[c], of_z = -r * r * slope[c] / sizes.pixels();
      a[c] = T(-r * level[c] / sizes.pixels() - of_z * means[c]);
      b[c] = T(of_z);
      factor[c] = scale[c] * inverses[c];
    }
    for (int64_t pixel = 0; pixel < sizes.pixels(); pixel++)
      for (int64_t c = 0; c < channels; c++) z[pixel * channels + c] = a[c] + b[c] * z[pixel * channels + c];
    for (int64_t window = 0; window < windows; window++)
      for (int64_t c = 0; c < channels; c++)
        z[places[window * channels + c] * channels + c] += factor[c] * e[window * channels + c];
    z += sizes.pixels() * channels;
    e += windows * channels;
    normalised += windows * channels;
    places += windows * channels;
    means += channels;
    inverses += channels;
  }
}

Sizes read(const int64_t* sizes) { return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]}; }

}  // namespace

extern "C" void pooled_group_norm_float32(const float* z, const int64_t* sizes, double eps,
                                          const float* scale, const float* shift, float* normalised,
                                          float* y, int32_t* places, float* means, float* inverses) {
  forward(z, read(sizes), eps, scale, shift, normalised, y, places, means, inverses);
}
extern "C" void pooled_group_norm_float64(const double* z, const int64_t* sizes, double eps,
                                          const double* scale, const double* shift, double* normalised,
                                          double* y, int32_t* places, double* means, double* inverses) {
  forward(z, read(sizes), eps, scale, shift, normalised, y, places, means, inverses);
}
extern "C" void pooled_group_gradient_float32(float* z, const int64_t* sizes, const float* scale,
                                              const float* normalised, const float* e,
                                              const int32_t* places, const float* means,
                                              const float* inverses, double* of_scale,
                                              double* of_shift) {
  backward(z, read(sizes), scale, normalised, e, places, means, inverses, of_scale, of_shift);
}
extern "C" void pooled_group_gradient_float64(double* z, const int64_t* sizes, const double* scale,
                                              const double* normalised, const double* e,
                                              const int32_t* places, const double* means,
                                              const double* inverses, double* of_scale,
                                              double* of_shift) {
  backward(z, read(sizes), scale, normalised, e, places, means, inverses, of_scale, of_shift);
}
