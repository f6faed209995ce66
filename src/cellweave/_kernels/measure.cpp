// Sums and convex hulls of the objects of a label image.
#include "parallel.hpp"

namespace cellweave {
namespace {

// One row an object: area, y0, x0, y1, x1, origin y, origin x, and with dy, dx counted from the origin the sums
// of dy, dx, dy*dy, dx*dx, dy*dx. The origin is the object's first pixel, so that the sums stay small.
constexpr int64_t kColumns = 12;

// 0^2 + 1^2 + ... + (n-1)^2, for negative n as well (as a polynomial).
int64_t squares(int64_t n) { return (n - 1) * n * (2 * n - 1) / 6; }

void object_moments(array_in<int32_t, 2> labels, array_out<int64_t, 2> out) {
  const int64_t height = labels.shape(0), width = labels.shape(1), n = out.shape(0);
  const int32_t* data = labels.data();
  int64_t* rows = out.data();
  std::fill(rows, rows + n * kColumns, 0);
  for (int64_t y = 0; y < height; ++y) {
    const int32_t* row = data + y * width;
    for (int64_t x = 0; x < width;) {
      const int32_t id = row[x];
      const int64_t begin = x;
      while (x < width && row[x] == id) ++x;
      if (id <= 0 || id > n) continue;
      int64_t* m = rows + (id - 1) * kColumns;
      if (m[0] == 0) {
        m[1] = m[5] = y;
        m[2] = m[6] = begin;
        m[4] = x;
      }
      const int64_t count = x - begin, dy = y - m[5], a = begin - m[6], b = x - m[6];
      const int64_t sum = (a + b - 1) * count / 2;
      m[0] += count;
      m[2] = std::min(m[2], begin);
      m[3] = y + 1;
      m[4] = std::max(m[4], x);
      m[7] += dy * count;
      m[8] += sum;
      m[9] += dy * dy * count;
      m[10] += squares(b) - squares(a);
      m[11] += dy * sum;
    }
  }
}

struct Point {
  int64_t y, x;
};

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

// Lower boundary (smallest x) of the convex hull of points with rising y; monotone chain (Andrew 1979).
void lower_hull(std::vector<Point>& points) {
  size_t used = 0;
  for (const Point p : points) {
    while (used >= 2) {
      const Point a = points[used - 2], b = points[used - 1];
      if ((b.y - a.y) * (p.x - a.x) - (b.x - a.x) * (p.y - a.y) > 0) break;
      --used;
    }
    points[used++] = p;
  }
  points.resize(used);
}

// Smallest k with 2k on or above the boundary, for each even y = 2 * row of `rows` rows from `first`.
void first_inside(const std::vector<Point>& hull, int64_t first, int64_t rows, std::vector<int64_t>& out) {
  out.resize(rows);
  size_t edge = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t y = 2 * (first + i);
    while (edge + 2 < hull.size() && hull[edge + 1].y < y) ++edge;
    const Point a = hull[edge], b = hull[edge + 1];
    const int64_t run = b.y - a.y, numerator = a.x * run + (b.x - a.x) * (y - a.y);
    out[i] = -floor_div(-numerator, 2 * run);
  }
}

// Pixel centres in the hull of one object. Coordinates are doubled, so that the middles of pixel sides are whole
// numbers; the right boundary is the left one of the mirrored object.
int64_t convex_area(const int32_t* labels, int64_t width, int32_t id, const int64_t* box,
                    std::vector<Point>& left, std::vector<Point>& right, std::vector<int64_t>& from,
                    std::vector<int64_t>& to) {
  const int64_t y0 = box[0], x0 = box[1], y1 = box[2], x1 = box[3], rows = y1 - y0;
  const int64_t none = INT64_MAX;
  left.resize(2 * rows + 1);
  right.resize(2 * rows + 1);
  for (int64_t i = 0; i < 2 * rows + 1; ++i) left[i] = right[i] = {2 * y0 - 1 + i, none};
  for (int64_t y = y0; y < y1; ++y) {
    const int32_t* row = labels + y * width;
    int64_t a = x0, b = x1 - 1;
    while (a < x1 && row[a] != id) ++a;
    if (a == x1) continue;
    while (row[b] != id) --b;
    const int64_t i = 2 * (y - y0);
    for (int64_t k = i; k <= i + 2; ++k) {
      const int64_t side = k == i + 1;
      left[k].x = std::min(left[k].x, 2 * a - side);
      right[k].x = std::min(right[k].x, -(2 * b + side));
    }
  }
  auto missing = [](const Point& p) { return p.x == INT64_MAX; };
  left.erase(std::remove_if(left.begin(), left.end(), missing), left.end());
  right.erase(std::remove_if(right.begin(), right.end(), missing), right.end());
  lower_hull(left);
  lower_hull(right);
  first_inside(left, y0, rows, from);
  first_inside(right, y0, rows, to);
  int64_t area = 0;
  for (int64_t i = 0; i < rows; ++i) area += std::max<int64_t>(0, -to[i] - from[i] + 1);
  return area;
}

void convex_areas(array_in<int32_t, 2> labels, array_in<int64_t, 2> boxes, array_out<int64_t, 1> out, int threads) {
  const int64_t width = labels.shape(1);
  parallel_for(boxes.shape(0), 256, threads, [&](int64_t begin, int64_t end) {
    std::vector<Point> left, right;
    std::vector<int64_t> from, to;
    for (int64_t k = begin; k < end; ++k)
      out.data()[k] = convex_area(labels.data(), width, static_cast<int32_t>(k + 1), boxes.data() + 4 * k, left,
                                  right, from, to);
  });
}

}  // namespace
}  // namespace cellweave

void bind_measure(nanobind::module_& m) {
  using namespace nanobind::literals;
  namespace nb = nanobind;
  m.def("object_moments", &cellweave::object_moments, "labels"_a, "moments"_a, nb::call_guard<nb::gil_scoped_release>(),
        "Write for ids 1..n area, box (y0, x0, y1, x1), origin (y, x) and, counted from the origin, the sums of dy, dx, "
        "dy*dy, dx*dx, dy*dx into `moments` (n, 12) int64.");
  m.def("convex_areas", &cellweave::convex_areas, "labels"_a, "boxes"_a, "areas"_a, "threads"_a = 0,
        nb::call_guard<nb::gil_scoped_release>(),
        "Write the pixels in the convex hull of ids 1..n, whose half-open boxes are (n, 4) int64, into `areas` (n,) int64.");
}
