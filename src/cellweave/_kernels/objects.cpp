// Bookkeeping of label images in one or two passes: boxes, numbering, holes, small objects.
#include <limits>

#include "parallel.hpp"

namespace cellweave {

// Bounding boxes (y0, x0, y1, x1), half open, of ids 1..n; (0, 0, 0, 0) for an id that does not occur.
void bounding_boxes(array_in<int32_t, 2> labels, array_out<int32_t, 2> boxes) {
  require_length(boxes, 1, 4);
  nb::gil_scoped_release release;
  const int32_t height = labels.shape(0), width = labels.shape(1), n = boxes.shape(0);
  const int32_t* label = labels.data();
  int32_t* box = boxes.data();
  std::fill(box, box + 4 * static_cast<int64_t>(n), 0);
  for (int32_t y = 0; y < height; ++y)
    for (int32_t x = 0; x < width; ++x, ++label) {
      if (*label <= 0 || *label > n) continue;
      int32_t* b = box + 4 * static_cast<int64_t>(*label - 1);
      if (b[2] == 0) b[0] = y, b[1] = x, b[3] = x + 1;
      b[1] = std::min(b[1], x), b[3] = std::max(b[3], x + 1), b[2] = y + 1;
    }
}

// Number objects 1..m in the order in which a scan by rows first meets them, leaving out ids k with keep[k - 1] == 0.
// Changes `labels` in place and writes the old id of each new one; returns m.
int32_t renumber(array_out<int32_t, 2> labels, array_in<uint8_t, 1> keep, array_out<int32_t, 1> old_ids) {
  require_length(old_ids, 0, keep.shape(0));
  nb::gil_scoped_release release;
  const int64_t size = labels.shape(0) * labels.shape(1);
  std::vector<int32_t> new_id(keep.shape(0) + 1, 0);
  int32_t* label = labels.data();
  int32_t m = 0;
  for (int64_t i = 0; i < size; ++i) {
    const int32_t old = label[i];
    if (old == 0) continue;
    if (!keep.data()[old - 1]) {
      label[i] = 0;
      continue;
    }
    if (new_id[old] == 0) {
      old_ids.data()[m] = old;
      new_id[old] = ++m;
    }
    label[i] = new_id[old];
  }
  return m;
}

// Background that an object encloses (4-connected) becomes part of it, in place. The last id comes first: in labels
// numbered by rows an object lies within one of smaller id only, so that a hole goes to the innermost object around it.
void fill_holes(array_out<int32_t, 2> labels, array_in<int32_t, 2> boxes) {
  require_length(boxes, 1, 4);
  nb::gil_scoped_release release;
  const int64_t image_width = labels.shape(1);
  std::vector<uint8_t> outside;
  std::vector<int64_t> stack;
  for (int64_t k = static_cast<int64_t>(boxes.shape(0)) - 1; k >= 0; --k) {
    const int32_t* b = boxes.data() + 4 * k;
    const int64_t height = b[2] - b[0], width = b[3] - b[1], stride = width + 2;
    if (height < 3 || width < 3) continue;
    const int32_t id = static_cast<int32_t>(k + 1);
    int32_t* corner = labels.data() + b[0] * image_width + b[1];
    outside.assign((height + 2) * stride, 0);
    auto is_object = [&](int64_t y, int64_t x) {
      return y > 0 && y <= height && x > 0 && x <= width && corner[(y - 1) * image_width + x - 1] == id;
    };
    stack.assign(1, 0);
    outside[0] = 1;
    while (!stack.empty()) {
      const int64_t at = stack.back(), y = at / stride, x = at % stride;
      stack.pop_back();
      const int64_t neighbour[4][2] = {{y - 1, x}, {y + 1, x}, {y, x - 1}, {y, x + 1}};
      for (const auto& [v, u] : neighbour) {
        if (v < 0 || u < 0 || v >= height + 2 || u >= stride || outside[v * stride + u] || is_object(v, u)) continue;
        outside[v * stride + u] = 1;
        stack.push_back(v * stride + u);
      }
    }
    for (int64_t y = 0; y < height; ++y)
      for (int64_t x = 0; x < width; ++x)
        if (int32_t& label = corner[y * image_width + x]; label == 0 && !outside[(y + 1) * stride + x + 1]) label = id;
  }
}

}  // namespace cellweave

void bind_objects(nanobind::module_& m) {
  using namespace nanobind::literals;
  m.def("bounding_boxes", &cellweave::bounding_boxes, "labels"_a.noconvert(), "boxes"_a.noconvert(),
        "Write half-open boxes (y0, x0, y1, x1) of ids 1..n into `boxes` (n, 4) int32.");
  m.def("renumber", &cellweave::renumber, "labels"_a.noconvert(), "keep"_a.noconvert(), "old_ids"_a.noconvert(),
        "Number kept objects by first appearance, in place; returns how many there are.");
  m.def("fill_holes", &cellweave::fill_holes, "labels"_a.noconvert(), "boxes"_a.noconvert(),
        "Fill enclosed background of each object, in place.");
}
