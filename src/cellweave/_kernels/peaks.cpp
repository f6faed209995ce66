// Maps of points: one Gaussian a point, and back: local maxima, and how much of a map lies around each of them.
#include <cmath>

#include "parallel.hpp"

namespace cellweave {
namespace {

constexpr int64_t kBand = 64;  // rows that a thread works on at a time

// Whole numbers of 0..n - 1 within `reach` of a position.
struct Window {
  int64_t begin, end;
  Window(double at, double reach, int64_t n)
      : begin(std::max<int64_t>(0, static_cast<int64_t>(std::ceil(at - reach)))),
        end(std::min<int64_t>(n, static_cast<int64_t>(std::floor(at + reach)) + 1)) {}
};

// Values of a Gaussian in a window, of sum 1.
void bell(double at, double sigma, const Window& window, std::vector<double>& values) {
  values.clear();
  double sum = 0;
  for (int64_t k = window.begin; k < window.end; ++k) {
    const double z = (static_cast<double>(k) - at) / sigma;
    values.push_back(std::exp(-0.5 * z * z));
    sum += values.back();
  }
  for (double& value : values) value /= sum;
}

void require_positions(const array_in<double, 2>& positions, double reach) {
  require_length(positions, 1, 2);
  if (!(reach > 0 && reach < 1e6)) throw nb::value_error("a reach must be positive and finite");
  for (size_t k = 0; k < positions.size(); ++k)
    if (!(std::abs(positions.data()[k]) < 1e9)) throw nb::value_error("a position is not finite");
}

// The sum of one Gaussian a position, cut off `reach` px away in rows and columns and at the borders of the map; what is
// left of each has the sum 1.
void gaussians(array_in<double, 2> positions, double sigma, double reach, array_out<float, 2> map, int threads) {
  require_positions(positions, reach);
  nb::gil_scoped_release release;
  const int64_t n = positions.shape(0), height = map.shape(0), width = map.shape(1);
  const double* at = positions.data();
  float* out = map.data();
  parallel_for(height, kBand, threads, [&](int64_t first, int64_t last) {
    std::fill(out + first * width, out + last * width, 0.0f);
    std::vector<double> down, across;
    for (int64_t k = 0; k < n; ++k) {
      const Window rows(at[2 * k], reach, height), columns(at[2 * k + 1], reach, width);
      const int64_t begin = std::max(first, rows.begin), end = std::min(last, rows.end);
      if (begin >= end || columns.begin >= columns.end) continue;
      bell(at[2 * k], sigma, rows, down);
      bell(at[2 * k + 1], sigma, columns, across);
      for (int64_t y = begin; y < end; ++y) {
        const double share = down[static_cast<size_t>(y - rows.begin)];
        float* line = out + y * width + columns.begin;
        for (size_t x = 0; x < across.size(); ++x) line[x] += static_cast<float>(share * across[x]);
      }
    }
  });
}

// 1 for pixels above the threshold that no pixel within the distance exceeds; of equal ones the first by rows wins.
void local_maxima(array_in<float, 2> map, double threshold, double distance, array_out<uint8_t, 2> found, int threads) {
  require_same_size(map, 0, found, 0);
  if (!(distance >= 0 && distance < 1e4)) throw nb::value_error("a distance must be in 0 to 10,000");
  nb::gil_scoped_release release;
  const int64_t height = map.shape(0), width = map.shape(1), r = static_cast<int64_t>(distance);
  struct Step {
    int64_t y, x;
    bool before;
  };
  std::vector<Step> steps;
  for (int64_t y = -r; y <= r; ++y)
    for (int64_t x = -r; x <= r; ++x)
      if ((y || x) && static_cast<double>(y * y + x * x) <= distance * distance)
        steps.push_back({y, x, y < 0 || (y == 0 && x < 0)});
  // Neighbours first: they refuse nearly all pixels.
  std::stable_sort(steps.begin(), steps.end(),
                   [](const Step& a, const Step& b) { return a.y * a.y + a.x * a.x < b.y * b.y + b.x * b.x; });
  const float* in = map.data();
  uint8_t* out = found.data();
  parallel_for(height, kBand, threads, [&](int64_t first, int64_t last) {
    for (int64_t y = first; y < last; ++y)
      for (int64_t x = 0; x < width; ++x) {
        const float value = in[y * width + x];
        bool highest = value > threshold;
        for (size_t k = 0; highest && k < steps.size(); ++k) {
          const int64_t row = y + steps[k].y, column = x + steps[k].x;
          if (row < 0 || row >= height || column < 0 || column >= width) continue;
          const float other = in[row * width + column];
          highest = !(other > value || (steps[k].before && other == value));
        }
        out[y * width + x] = highest;
      }
  });
}

// Sum of the map over the pixels within `reach` of each position that are nearer to it than to any other; pixels as far
// from several belong to the first.
void sums_around(array_in<float, 2> map, array_in<double, 2> positions, double reach, array_out<double, 1> sums,
                 int threads) {
  require_positions(positions, reach);
  require_length(sums, 0, positions.shape(0));
  nb::gil_scoped_release release;
  const int64_t n = positions.shape(0), height = map.shape(0), width = map.shape(1);
  const float* in = map.data();
  const double *at = positions.data(), furthest = reach * reach;
  std::vector<int64_t> owner(static_cast<size_t>(height * width), -1);
  const auto squared = [&](int64_t k, int64_t y, int64_t x) {
    const double dy = static_cast<double>(y) - at[2 * k], dx = static_cast<double>(x) - at[2 * k + 1];
    return dy * dy + dx * dx;
  };
  parallel_for(height, kBand, threads, [&](int64_t first, int64_t last) {
    std::vector<double> nearest(static_cast<size_t>((last - first) * width), furthest);
    for (int64_t k = 0; k < n; ++k) {
      const Window rows(at[2 * k], reach, height), columns(at[2 * k + 1], reach, width);
      for (int64_t y = std::max(first, rows.begin); y < std::min(last, rows.end); ++y)
        for (int64_t x = columns.begin; x < columns.end; ++x) {
          double& least = nearest[static_cast<size_t>((y - first) * width + x)];
          int64_t& mine = owner[static_cast<size_t>(y * width + x)];
          const double distance = squared(k, y, x);
          if (distance < least || (distance == least && mine < 0)) least = distance, mine = k;
        }
    }
  });
  parallel_for(n, 256, threads, [&](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) {
      double sum = 0;
      const Window rows(at[2 * k], reach, height), columns(at[2 * k + 1], reach, width);
      for (int64_t y = rows.begin; y < rows.end; ++y)
        for (int64_t x = columns.begin; x < columns.end; ++x)
          if (owner[static_cast<size_t>(y * width + x)] == k) sum += in[y * width + x];
      sums.data()[k] = sum;
    }
  });
}

}  // namespace
}  // namespace cellweave

void bind_peaks(nanobind::module_& m) {
  using namespace nanobind::literals;
  m.def("gaussians", &cellweave::gaussians, "positions"_a, "sigma"_a, "reach"_a, "map"_a.noconvert(), "threads"_a = 0,
        "Write into `map` the sum of a Gaussian of sum 1 at each of `positions` (N, 2), cut off at `reach` px.");
  m.def("local_maxima", &cellweave::local_maxima, "map"_a, "threshold"_a, "distance"_a, "found"_a.noconvert(),
        "threads"_a = 0,
        "Set `found` to 1 where `map` is above the threshold and nothing within `distance` px is higher.");
  m.def("sums_around", &cellweave::sums_around, "map"_a, "positions"_a, "reach"_a, "sums"_a.noconvert(),
        "threads"_a = 0,
        "Write the sum of `map` over the pixels within `reach` px of each of `positions` (N, 2) that are nearer to it "
        "than to any other.");
}
