// Mean and variance of each column of matrices, e.g. of each channel of images with channels last.
//
// Sums are of differences to the first row, in float64: neither many rows nor a large mean costs digits.

#include <cstdint>
#include <vector>

namespace {

template <typename T>
void statistics(const T* values, int64_t matrices, int64_t rows, int64_t columns, double* mean,
                double* variance) {
  std::vector<double> start(columns), sums(columns), squares(columns);
  for (int64_t matrix = 0; matrix < matrices; matrix++, mean += columns, variance += columns) {
    for (int64_t column = 0; column < columns; column++) {
      start[column] = values[column];
      sums[column] = squares[column] = 0;
    }
    for (int64_t row = 0; row < rows; row++, values += columns)
      for (int64_t column = 0; column < columns; column++) {
        double difference = double(values[column]) - start[column];
        sums[column] += difference;
        squares[column] += difference * difference;
      }
    for (int64_t column = 0; column < columns; column++) {
      double shift = sums[column] / rows;
      mean[column] = start[column] + shift;
      variance[column] = squares[column] / rows - shift * shift;
    }
  }
}

}  // namespace

extern "C" void statistics_float32(const float* values, int64_t matrices, int64_t rows,
                                   int64_t columns, double* mean, double* variance) {
  statistics(values, matrices, rows, columns, mean, variance);
}
extern "C" void statistics_float64(const double* values, int64_t matrices, int64_t rows,
                                   int64_t columns, double* mean, double* variance) {
  statistics(values, matrices, rows, columns, mean, variance);
}
