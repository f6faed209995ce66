// The flow of a picture and its foreground, as the decoders of flows see them.
#pragma once
#include "parallel.hpp"

namespace cellweave {

struct FlowField {
  const float *dy, *dx, *probability;
  float threshold;
  int64_t height, width;

  // Of maps (3 or more, Y, X): flow down, flow right, probability.
  FlowField(const array_in<float, 3>& maps, float threshold)
      : dy(maps.data()), threshold(threshold), height(maps.shape(1)), width(maps.shape(2)) {
    dx = dy + size(), probability = dx + size();
  }
  int64_t size() const { return height * width; }
  bool inside(int64_t i) const { return probability[i] > threshold; }

  // Bilinear interpolation of the flow at (y, x) within the image; the flow outside cells is zero.
  void sample(float y, float x, float& sy, float& sx) const {
    const int64_t top = static_cast<int64_t>(y), left = static_cast<int64_t>(x);
    const int64_t bottom = std::min(top + 1, height - 1), right = std::min(left + 1, width - 1);
    const float fy = y - top, fx = x - left;
    const int64_t corner[4] = {top * width + left, top * width + right, bottom * width + left, bottom * width + right};
    const float weight[4] = {(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx};
    sy = sx = 0;
    for (int k = 0; k < 4; ++k)
      if (inside(corner[k])) sy += weight[k] * dy[corner[k]], sx += weight[k] * dx[corner[k]];
  }
};

}  // namespace cellweave
