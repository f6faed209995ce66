// Views of training samples: turned, mirrored and resized crops, cut from values in half precision.
#include "parallel.hpp"

#include <cmath>
#include <cstring>
#include <limits>

namespace cellweave {
namespace {

constexpr int64_t kColours = 3;  // interpolated linearly; the values after them are maps, of which the nearest counts

// The number that the 16 bits of a finite half float mean: its exponent counts from 15, that of a float from 127.
inline float from_half(uint16_t bits) {
  const uint32_t shifted = static_cast<uint32_t>(bits & 0x7fff) << 13;
  float value;
  std::memcpy(&value, &shifted, sizeof value);
  return bits & 0x8000 ? -value * 0x1p112f : value * 0x1p112f;
}

// The same for maps, in which a NaN says that the truth is not known. (Colours are finite.)
inline float from_half_or_nan(uint16_t bits) {
  return (bits & 0x7fff) > 0x7c00 ? std::numeric_limits<float>::quiet_NaN() : from_half(bits);
}

struct Sample {
  const uint16_t* values;
  int64_t height, width, depth;

  bool inside(int64_t y, int64_t x) const { return y >= 0 && y < height && x >= 0 && x < width; }
  const uint16_t* at(int64_t y, int64_t x) const { return values + (y * width + x) * depth; }
};

// One row of a crop: pixel x looks at (y0 + x * dy, x0 + x * dx), x counted from the middle. The order of the
// operations is that of the twin in PyTorch, so that both give the same bits.
CELLWEAVE_WIDE void take_row(const Sample& sample, float y0, float x0, float dy, float dx, int64_t crop,
                             float* colours, float* maps, int64_t plane) {
  const float middle = static_cast<float>(crop - 1) / 2;
  const int64_t depth = sample.depth;
  for (int64_t k = 0; k < crop; ++k) {
    const float across = static_cast<float>(k) - middle;
    const float y = y0 + dy * across, x = x0 + dx * across;
    const int64_t row = static_cast<int64_t>(std::floor(y)), column = static_cast<int64_t>(std::floor(x));
    if (sample.inside(row, column)) {
      const uint16_t* from = sample.at(row, column) + kColours;
      for (int64_t m = 0; m < depth - kColours; ++m) maps[m * plane + k] = from_half_or_nan(from[m]);
    } else {
      for (int64_t m = 0; m < depth - kColours; ++m) maps[m * plane + k] = 0;
    }
    const float low_y = std::floor(y - 0.5f), low_x = std::floor(x - 0.5f);
    const float part_y = y - 0.5f - low_y, part_x = x - 0.5f - low_x;
    const int64_t top = static_cast<int64_t>(low_y), left = static_cast<int64_t>(low_x);
    const float rows[2] = {1 - part_y, part_y}, columns[2] = {1 - part_x, part_x};
    float sum[kColours] = {0, 0, 0};
    const bool whole = sample.inside(top, left) && sample.inside(top + 1, left + 1);
    for (int64_t i = 0; i < 2; ++i)
      for (int64_t j = 0; j < 2; ++j) {
        if (!whole && !sample.inside(top + i, left + j)) continue;
        const uint16_t* from = sample.at(top + i, left + j);
        const float share = rows[i] * columns[j];
        for (int64_t c = 0; c < kColours; ++c) sum[c] += from_half(from[c]) * share;
      }
    for (int64_t c = 0; c < kColours; ++c) colours[c * plane + k] = sum[c];
  }
}

void take_views(array_in<uint16_t, 2> values, array_in<int64_t, 1> starts, array_in<int64_t, 2> shapes,
                array_in<float, 2> centers, array_in<float, 3> back, array_out<float, 4> colours,
                array_out<float, 4> maps) {
  const int64_t count = starts.shape(0), crop = colours.shape(3), depth = values.shape(1), plane = crop * crop;
  for (const size_t length : {shapes.shape(0), centers.shape(0), back.shape(0), colours.shape(0), maps.shape(0)})
    if (length != static_cast<size_t>(count)) throw nb::value_error("the arrays of a kernel differ in length");
  require_same_size(colours, 2, maps, 2);
  require_length(shapes, 1, 2);
  require_length(centers, 1, 2);
  require_length(back, 1, 2);
  require_length(back, 2, 2);
  require_length(colours, 1, kColours);
  require_length(colours, 2, crop);
  if (depth < kColours) throw nb::value_error("an array of a kernel has the wrong length");
  require_length(maps, 1, depth - kColours);
  for (int64_t b = 0; b < count; ++b) {
    const int64_t start = starts.data()[b], height = shapes.data()[2 * b], width = shapes.data()[2 * b + 1];
    if (start < 0 || height < 0 || width < 0 || start + height * width > static_cast<int64_t>(values.shape(0)))
      throw nb::value_error("a sample lies outside of the values");
  }
  const float middle = static_cast<float>(crop - 1) / 2;
  for (int64_t b = 0; b < count; ++b) {
    const Sample sample{values.data() + starts.data()[b] * depth, shapes.data()[2 * b], shapes.data()[2 * b + 1],
                        depth};
    const float *center = centers.data() + 2 * b, *m = back.data() + 4 * b;
    for (int64_t i = 0; i < crop; ++i) {
      const float down = static_cast<float>(i) - middle;
      take_row(sample, center[0] + m[0] * down, center[1] + m[2] * down, m[1], m[3], crop,
               colours.data() + b * kColours * plane + i * crop, maps.data() + b * (depth - kColours) * plane + i * crop,
               plane);
    }
  }
}

}  // namespace
}  // namespace cellweave

void bind_views(nanobind::module_& m) {
  using namespace nanobind::literals;
  namespace nb = nanobind;
  m.def("take_views", &cellweave::take_views, "values"_a.noconvert(), "starts"_a, "shapes"_a, "centers"_a, "back"_a,
        "colours"_a.noconvert(), "maps"_a.noconvert(), nb::call_guard<nb::gil_scoped_release>(),
        "Cut one crop of each sample from `values` (P, 3 + M), the bits of float16. Sample b begins at row `starts`[b], "
        "row by row of `shapes`[b]; `centers` (y, x) and `back` (2, 2) lead from the crop to the sample. Write "
        "`colours` (B, 3, c, c), interpolated, and `maps` (B, M, c, c), of the nearest pixel.");
}
