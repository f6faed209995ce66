// Non-maximum suppression of boxes, exact for any number of them.
#include <cmath>
#include <limits>

#include "parallel.hpp"

namespace cellweave {
namespace {

struct Box {
  double y0, x0, y1, x1;
  double height() const { return y1 - y0; }
  double width() const { return x1 - x0; }
  double side() const { return std::max(height(), width()); }
  double area() const { return height() * width(); }
};

Box box_at(const float* boxes, int64_t i) {
  return {boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]};
}

bool overlaps(const Box& a, const Box& b, double iou) {
  const double height = std::min(a.y1, b.y1) - std::max(a.y0, b.y0);
  const double width = std::min(a.x1, b.x1) - std::max(a.x0, b.x0);
  if (height <= 0 || width <= 0) return false;
  const double shared = height * width;
  return shared / (a.area() + b.area() - shared) > iou;
}

// Boxes whose larger sides differ by less than a factor of two, by the squares of a grid that their centers lie in.
struct Level {
  double smallest = std::numeric_limits<double>::infinity(), largest = 0;        // larger sides
  double top = smallest, left = smallest, bottom = -smallest, right = -smallest;  // centers
  int64_t count = 0, rows = 0, columns = 0;
  double square = 1;
  std::vector<int64_t> last;  // box of each square that was kept last, or -1

  void measure(const Box& b) {
    const double y = 0.5 * (b.y0 + b.y1), x = 0.5 * (b.x0 + b.x1);
    smallest = std::min(smallest, b.side()), largest = std::max(largest, b.side());
    top = std::min(top, y), bottom = std::max(bottom, y), left = std::min(left, x), right = std::max(right, x);
    ++count;
  }
  void lay() {
    const double height = bottom - top, width = right - left, most = 4.0 * static_cast<double>(count) + 64;
    square = std::max({largest, std::sqrt(height * width / most), height / most, width / most});
    rows = static_cast<int64_t>(height / square) + 1, columns = static_cast<int64_t>(width / square) + 1;
    last.assign(rows * columns, -1);
  }
  int64_t row(double y) const { return index(y - top, rows); }
  int64_t column(double x) const { return index(x - left, columns); }
  int64_t index(double offset, int64_t n) const {
    return static_cast<int64_t>(std::min(std::max(std::floor(offset / square), 0.0), static_cast<double>(n - 1)));
  }
};

// The boxes that were kept, by size and place.
class KeptBoxes {
 public:
  KeptBoxes(const float* boxes, int64_t n, double iou) : iou_(iou), levels_(kLevels) {
    for (int64_t i = 0; i < n; ++i) {
      const Box b = box_at(boxes, i);
      levels_[level(b)].measure(b);
    }
    for (auto& level : levels_)
      if (level.count) level.lay();
  }

  void add(const Box& b) {
    Level& l = levels_[level(b)];
    int64_t& last = l.last[l.row(0.5 * (b.y0 + b.y1)) * l.columns + l.column(0.5 * (b.x0 + b.x1))];
    before_.push_back(last);
    last = size();
    boxes_.push_back(b);
  }

  // Whether a box kept as number `first` or later overlaps b by more than the threshold.
  bool suppress(const Box& b, int64_t first) const {
    constexpr double slack = 1 + 1e-9;  // the bounds on sides and centers are rounded, the overlap decides
    for (const auto& l : levels_) {
      // The IoU is at most the ratio of the larger sides.
      if (!l.count || l.largest * slack < iou_ * b.side() || b.side() * slack < iou_ * l.smallest) continue;
      const double reach = 0.5 * l.largest * slack;
      const int64_t bottom = l.row(b.y1 + reach), left = l.column(b.x0 - reach), right = l.column(b.x1 + reach);
      for (int64_t r = l.row(b.y0 - reach); r <= bottom; ++r)
        for (int64_t c = left; c <= right; ++c)
          for (int64_t k = l.last[r * l.columns + c]; k >= first; k = before_[k])
            if (overlaps(boxes_[k], b, iou_)) return true;
    }
    return false;
  }

  int64_t size() const { return static_cast<int64_t>(boxes_.size()); }

 private:
  static constexpr int kLevels = 24;
  static int level(const Box& b) { return std::min(std::max(std::ilogb(b.side()), 0), kLevels - 1); }

  double iou_;
  std::vector<Level> levels_;
  std::vector<Box> boxes_;
  std::vector<int64_t> before_;  // the box kept before in the same square, or -1
};

// Mark the boxes that no better one that is kept overlaps by more than `iou`; they come in order, the best first.
void box_nms(array_in<float, 2> boxes, double iou, array_out<uint8_t, 1> keep, int threads) {
  require_length(boxes, 1, 4), require_same_size(boxes, 0, keep, 0, 1);
  nb::gil_scoped_release release;
  const int64_t n = boxes.shape(0);
  const float* from = boxes.data();
  uint8_t* flags = keep.data();
  KeptBoxes kept(from, n, iou);
  // A piece of boxes is compared with all that are kept before it, in parallel; those that remain are few, and are
  // compared among each other in order.
  for (int64_t begin = 0, end; begin < n; begin = end) {
    end = std::min(n, begin + std::min<int64_t>(std::max<int64_t>(begin, 256), 16384));
    const int64_t before = kept.size();
    parallel_for(end - begin, 512, threads, [&](int64_t first, int64_t last) {
      for (int64_t i = begin + first; i < begin + last; ++i) flags[i] = !kept.suppress(box_at(from, i), 0);
    });
    for (int64_t i = begin; i < end; ++i) {
      if (!flags[i]) continue;
      const Box b = box_at(from, i);
      flags[i] = !kept.suppress(b, before);
      if (flags[i]) kept.add(b);
    }
  }
}

}  // namespace
}  // namespace cellweave

void bind_boxes(nanobind::module_& m) {
  using namespace nanobind::literals;
  m.def("box_nms", &cellweave::box_nms, "boxes"_a.noconvert(), "iou"_a, "keep"_a.noconvert(), "threads"_a = 0,
        "Mark in `keep` (N,) uint8 the boxes (N, 4) float32, finite and with an area, the best first, that no better\n"
        "one overlaps by more than `iou`.");
}
