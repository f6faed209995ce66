// Pixels inside the outlines of simulated cells.
#include <cmath>

#include "parallel.hpp"

namespace cellweave {
namespace {

// One row a part: y, x, cosine and sine of the angle, half axes a and b, half length of the straight piece, bend, taper,
// pinch, largest radius of the outline.
constexpr int64_t kColumns = 11;

int64_t outline_pixels(array_in<float, 2> parts, array_in<float, 2> outlines, array_in<int32_t, 2> boxes,
                       array_in<float, 3> warp, int64_t columns, array_out<int32_t, 1> pixels,
                       array_out<int32_t, 1> owners, array_out<float, 1> radii) {
  const int64_t n = parts.shape(0), samples = outlines.shape(1), room = pixels.shape(0);
  require_length(parts, 1, kColumns);
  require_length(boxes, 1, 4);
  require_same_size(parts, 0, outlines, 0, 1);
  require_same_size(parts, 0, boxes, 0, 1);
  require_same_size(pixels, 0, owners, 0, 1);
  require_same_size(pixels, 0, radii, 0, 1);
  const int64_t field = static_cast<int64_t>(warp.shape(1)) * static_cast<int64_t>(warp.shape(2));
  const float* shift_y = warp.data();
  const float* shift_x = warp.data() + field;
  int64_t found = 0;
  for (int64_t k = 0; k < n; ++k) {
    const float* p = parts.data() + k * kColumns;
    const float* outline = outlines.data() + k * samples;
    const int32_t* box = boxes.data() + 4 * k;
    const float c = p[2], s = p[3], core = p[6], bend = p[7], taper = p[8], pinch = p[9];
    const float per_a = 1.0f / p[4], per_b = 1.0f / p[5], per_length = 1.0f / (core + p[4]);
    const float per_waist = 1.0f / (0.7f * p[5]), furthest = p[10] * p[10], scale = 0.25f * samples;
    for (int32_t y = box[0]; y < box[1]; ++y)
      for (int32_t x = box[2]; x < box[3]; ++x) {
        const int64_t pixel = y * columns + x;
        float dy = static_cast<float>(y), dx = static_cast<float>(x);
        if (field) {
          if (pixel >= field) throw nb::value_error("a box lies outside the warp");
          dy += shift_y[pixel];
          dx += shift_x[pixel];
        }
        dy -= p[0];
        dx -= p[1];
        float u = c * dx + s * dy, v = c * dy - s * dx;
        if (bend != 0) {
          v -= 0.5f * bend * u * u;
          v /= std::sqrt(1.0f + (bend * u) * (bend * u));
        }
        if (pinch != 0) v /= 1.0f - pinch * std::exp(-(u * per_waist) * (u * per_waist));
        if (taper != 0) v /= std::max(1.0f + taper * u * per_length, 0.1f);
        u = std::copysign(std::max(std::abs(u) - core, 0.0f), u) * per_a;
        v *= per_b;
        const float square = u * u + v * v;
        if (!(square < furthest)) continue;
        const float t = v / (std::abs(u) + std::abs(v) + 1e-6f);
        const float place = (u >= 0 ? 1.0f + t : 3.0f - t) * scale + (static_cast<float>(samples) - 0.5f);
        const int64_t whole = static_cast<int64_t>(place);
        const float part = place - static_cast<float>(whole);
        const float low = outline[whole % samples], high = outline[(whole + 1) % samples];
        const float rho = std::sqrt(square) / (low + part * (high - low));
        if (!(rho < 1.0f)) continue;
        if (found == room) throw nb::value_error("the arrays for the pixels are too short");
        pixels.data()[found] = static_cast<int32_t>(pixel);
        owners.data()[found] = static_cast<int32_t>(k);
        radii.data()[found] = rho;
        ++found;
      }
  }
  return found;
}

}  // namespace
}  // namespace cellweave

void bind_outlines(nanobind::module_& m) {
  using namespace nanobind::literals;
  namespace nb = nanobind;
  m.def("outline_pixels", &cellweave::outline_pixels, "parts"_a, "outlines"_a, "boxes"_a, "warp"_a, "columns"_a,
        "pixels"_a.noconvert(), "owners"_a.noconvert(), "radii"_a.noconvert(),
        nb::call_guard<nb::gil_scoped_release>(),
        "Write flat index, part and normalised radius of each pixel inside a part, part by part, into `pixels`, `owners` "
        "and `radii`; returns how many. `parts` is (P, 11), `outlines` (P, S), `boxes` (P, 4) of y0, y1, x0, x1, `warp` "
        "(2, Y, X) or (2, 0, 0).");
}
