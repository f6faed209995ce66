// Star-convex polygons: distances along rays, suppression of polygons that overlap better ones, and painting them
// (StarDist: Schmidt, Weigert et al. 2018; Weigert et al. 2020).
#include <cmath>
#include <limits>

#include "parallel.hpp"

namespace cellweave {
namespace {

constexpr double kTurn = 6.283185307179586476925;

// Directions of n rays; ray k has the angle k * turn / n from the column axis towards the row axis. `Real` is the type
// that the angle is computed in.
template <typename Real>
struct Rays {
  std::vector<Real> y, x;
  explicit Rays(int64_t n) : y(n), x(n) {
    for (int64_t k = 0; k < n; ++k) {
      const Real angle = static_cast<Real>(kTurn / n) * static_cast<Real>(k);
      y[k] = static_cast<Real>(std::sin(static_cast<double>(angle)));
      x[k] = static_cast<Real>(std::cos(static_cast<double>(angle)));
    }
  }
};

// --- distances --------------------------------------------------------------------------------------------------

// The steps of a ray: the pixel that step t stands on, and how far the border is when that pixel is outside: back to
// where the ray is half a pixel from the pixel's middle along its main axis.
struct Steps {
  std::vector<int64_t> offset;
  std::vector<float> distance;
};

// Half away from zero, and what is half but for rounding, so that mirrored rays stand on mirrored pixels.
int64_t nearest(double value) {
  const int64_t whole = static_cast<int64_t>(std::abs(value) + 0.5001);
  return value < 0 ? -whole : whole;
}

Steps walk(float dy, float dx, int64_t count, int64_t stride) {
  Steps steps;
  const float back = 0.5f / std::max(std::abs(dy), std::abs(dx)) - 1.0f;
  float y = 0, x = 0;
  for (int64_t t = 0; t < count; ++t) {
    y += dy, x += dx;
    steps.offset.push_back(nearest(y) * stride + nearest(x));
    const float end_y = y + back * dy, end_x = x + back * dx;
    steps.distance.push_back(std::sqrt(end_y * end_y + end_x * end_x));
  }
  return steps;
}

// Distance from each pixel of an object to its border along each ray; 0 in the background.
void star_distances(array_in<int32_t, 2> labels, array_out<float, 3> distances, int threads) {
  require_same_size(labels, 0, distances, 1);
  nb::gil_scoped_release release;
  const int64_t height = labels.shape(0), width = labels.shape(1), n = distances.shape(0), stride = width + 2;
  // A border of one pixel that belongs to nothing: a step moves at most one pixel along each axis, so none jumps it.
  std::vector<int32_t> padded((height + 2) * stride, -1);
  for (int64_t y = 0; y < height; ++y)
    std::copy_n(labels.data() + y * width, width, padded.data() + (y + 1) * stride + 1);
  const Rays<float> rays(n);
  std::vector<Steps> steps(n);
  const int64_t longest = static_cast<int64_t>(1.5 * std::max(height, width)) + 3;
  for (int64_t k = 0; k < n; ++k) steps[k] = walk(rays.y[k], rays.x[k], longest, stride);
  float* out = distances.data();
  parallel_for(height, 8, threads, [&](int64_t begin, int64_t end) {
    for (int64_t k = 0; k < n; ++k) {
      const int64_t* offset = steps[k].offset.data();
      const float* distance = steps[k].distance.data();
      for (int64_t y = begin; y < end; ++y) {
        const int32_t* from = padded.data() + (y + 1) * stride + 1;
        float* to = out + (k * height + y) * width;
        for (int64_t x = 0; x < width; ++x, ++from) {
          const int32_t id = *from;
          int64_t t = 0;
          if (id > 0)
            while (from[offset[t]] == id) ++t;
          to[x] = id > 0 ? distance[t] : 0.0f;
        }
      }
    }
  });
}

// --- suppression ------------------------------------------------------------------------------------------------

// A polygon with whole-numbered corners.
struct Polygon {
  std::vector<int32_t> y, x;             // the first corner is there once more at the end
  int32_t y0 = 0, x0 = 0, y1 = 0, x1 = 0;  // box of the corners, both ends included
  double area = 0;
  int64_t size() const { return static_cast<int64_t>(y.size()) - 1; }
};

int64_t cross(int64_t y0, int64_t x0, int64_t y1, int64_t x1) { return x0 * y1 - y0 * x1; }

int32_t whole(float value) {  // towards zero; NaN becomes 0
  constexpr float limit = 1 << 24;
  return value != value ? 0 : static_cast<int32_t>(std::min(std::max(value, -limit), limit));
}

void build(Polygon& p, const int32_t* point, const float* distances, const Rays<float>& rays) {
  const int64_t n = static_cast<int64_t>(rays.y.size());
  p.y.resize(n + 1), p.x.resize(n + 1);
  const float y = static_cast<float>(point[0]), x = static_cast<float>(point[1]);
  for (int64_t k = 0; k < n; ++k)
    p.y[k] = whole(y + distances[k] * rays.y[k]), p.x[k] = whole(x + distances[k] * rays.x[k]);
  p.y[n] = p.y[0], p.x[n] = p.x[0];
  const auto rows = std::minmax_element(p.y.begin(), p.y.end());
  const auto columns = std::minmax_element(p.x.begin(), p.x.end());
  p.y0 = *rows.first, p.y1 = *rows.second, p.x0 = *columns.first, p.x1 = *columns.second;
  int64_t twice = 0;
  for (int64_t k = 0; k < n; ++k) twice += cross(p.y[k], p.x[k], p.y[k + 1], p.x[k + 1]);
  p.area = 0.5 * static_cast<double>(std::abs(twice));
}

// Where an edge of one polygon crosses an edge of another, and how the winding numbers change there.
struct Crossing {
  int64_t a, b;            // edges
  double along_a, along_b;  // 0..1
  int64_t y, x;            // rounded to whole numbers
  int step_a, step_b;      // change of the winding number of b for who walks along a, and of a along b
};

int64_t divide_rounded(int64_t numerator, int64_t denominator) {  // half away from zero; denominator > 0
  const int64_t whole = (2 * std::abs(numerator) + denominator) / (2 * denominator);
  return numerator < 0 ? -whole : whole;
}

// Memory of one thread.
struct Workspace {
  std::vector<int32_t> a_of_b, b_of_a;                  // sides, (corners of a) x (corners of b)
  std::vector<int32_t> ay, ax, by, bx;                  // corners from the corner of a box that holds both
  std::vector<int32_t> edge_dy, edge_dx, edge_limit;    // edges of b
  std::vector<Crossing> crossings;
  Polygon polygon;
  std::vector<int64_t> near;
};

// On which side of each edge of b corner (y, x) lies: 1 on the left (winding numbers count those), else 0.
// Where it lies on the edge, b counts as moved by an infinitely small step down and a far smaller one to the right.
template <typename Int>
static inline void sides_of_corner(Int y, Int x, const int32_t* by, const int32_t* bx, const int32_t* dy,
                                   const int32_t* dx, const int32_t* limit, int64_t n, int32_t* side) {
  for (int64_t k = 0; k < n; ++k)
    side[k] = static_cast<Int>(dx[k]) * (y - by[k]) - static_cast<Int>(dy[k]) * (x - bx[k]) > limit[k];
}

// On which side of the edge from (y, x) by (dy, dx) each corner of b lies.
template <typename Int>
static inline void sides_of_edge(Int y, Int x, Int dy, Int dx, const int32_t* by, const int32_t* bx, int64_t n,
                                 int32_t* side) {
  const Int limit = dx > 0 || (dx == 0 && dy < 0) ? -1 : 0;
  for (int64_t k = 0; k < n; ++k) side[k] = dx * (by[k] - y) - dy * (bx[k] - x) > limit;
}

template <typename Int>
static inline void fill_sides(Workspace& w, int64_t na, int64_t nb) {
  for (int64_t i = 0; i <= na; ++i)
    sides_of_corner<Int>(w.ay[i], w.ax[i], w.by.data(), w.bx.data(), w.edge_dy.data(), w.edge_dx.data(),
                         w.edge_limit.data(), nb, w.a_of_b.data() + i * (nb + 1));
  for (int64_t i = 0; i < na; ++i)
    sides_of_edge<Int>(w.ay[i], w.ax[i], w.ay[i + 1] - w.ay[i], w.ax[i + 1] - w.ax[i], w.by.data(), w.bx.data(), nb + 1,
                       w.b_of_a.data() + i * (nb + 1));
}

CELLWEAVE_WIDE static void sides_small(Workspace& w, int64_t na, int64_t nb) { fill_sides<int32_t>(w, na, nb); }
static void sides_large(Workspace& w, int64_t na, int64_t nb) { fill_sides<int64_t>(w, na, nb); }

CELLWEAVE_WIDE static int32_t any_crossing(const int32_t* edge, const int32_t* corner, const int32_t* next, int64_t n,
                                           int32_t* found) {
  int32_t any = 0;
  for (int64_t k = 0; k < n; ++k) any |= found[k] = (edge[k] ^ edge[k + 1]) & (corner[k] ^ next[k]);
  return any;
}

// Walk along p and sum the areas between its pieces and the origin, each times the other polygon's winding number.
template <typename Edge, typename Step>
int64_t walk_along(const Polygon& p, const std::vector<Crossing>& crossings, int winding, const Edge& edge,
                   const Step& step) {
  int64_t sum = 0;
  size_t c = 0;
  for (int64_t k = 0; k < p.size(); ++k) {
    int64_t y = p.y[k], x = p.x[k];
    for (; c < crossings.size() && edge(crossings[c]) == k; ++c) {
      if (winding) sum += winding * cross(y, x, crossings[c].y, crossings[c].x);
      y = crossings[c].y, x = crossings[c].x;
      winding += step(crossings[c]);
    }
    if (winding) sum += winding * cross(y, x, p.y[k + 1], p.x[k + 1]);
  }
  return sum;
}

// Area that two polygons share: the integral of the product of their winding numbers, crossings of edges being rounded
// to whole numbers, as StarDist's does (its Clipper library knows whole numbers only). Exact for these corners.
double shared_area(const Polygon& a, const Polygon& b, Workspace& w) {
  const int64_t na = a.size(), nb = b.size();
  const int32_t top = std::min(a.y0, b.y0), left = std::min(a.x0, b.x0);
  w.ay.resize(na + 1), w.ax.resize(na + 1), w.by.resize(nb + 1), w.bx.resize(nb + 1);
  for (int64_t i = 0; i <= na; ++i) w.ay[i] = a.y[i] - top, w.ax[i] = a.x[i] - left;
  for (int64_t k = 0; k <= nb; ++k) w.by[k] = b.y[k] - top, w.bx[k] = b.x[k] - left;
  w.edge_dy.resize(nb), w.edge_dx.resize(nb), w.edge_limit.resize(nb);
  for (int64_t k = 0; k < nb; ++k) {
    const int32_t dy = w.by[k + 1] - w.by[k], dx = w.bx[k + 1] - w.bx[k];
    w.edge_dy[k] = dy, w.edge_dx[k] = dx, w.edge_limit[k] = dx < 0 || (dx == 0 && dy > 0) ? -1 : 0;
  }
  w.a_of_b.resize((na + 1) * (nb + 1)), w.b_of_a.resize((na + 1) * (nb + 1));
  const int64_t extent = std::max({a.y1 - top, b.y1 - top, a.x1 - left, b.x1 - left});
  if (extent < 1 << 14)
    sides_small(w, na, nb);
  else
    sides_large(w, na, nb);

  w.crossings.clear();
  int32_t* found = w.b_of_a.data() + na * (nb + 1);
  for (int64_t i = 0; i < na; ++i) {
    const int32_t* edge = w.b_of_a.data() + i * (nb + 1);
    const int32_t *corner = w.a_of_b.data() + i * (nb + 1), *next = corner + nb + 1;
    if (!any_crossing(edge, corner, next, nb, found)) continue;
    const int64_t ay = w.ay[i], ax = w.ax[i], ady = w.ay[i + 1] - ay, adx = w.ax[i + 1] - ax;
    for (int64_t k = 0; k < nb; ++k) {
      if (!found[k]) continue;
      const int64_t by = w.by[k], bx = w.bx[k], bdy = w.edge_dy[k], bdx = w.edge_dx[k];
      int64_t numerator = cross(bdy, bdx, ay - by, ax - bx), denominator = cross(ady, adx, bdy, bdx);
      const double along_a = static_cast<double>(numerator) / static_cast<double>(denominator);
      const double along_b =
          static_cast<double>(cross(ady, adx, ay - by, ax - bx)) / static_cast<double>(denominator);
      if (denominator < 0) numerator = -numerator, denominator = -denominator;
      w.crossings.push_back({i, k, along_a, along_b,
                             divide_rounded(a.y[i] * denominator + ady * numerator, denominator),
                             divide_rounded(a.x[i] * denominator + adx * numerator, denominator),
                             next[k] - corner[k], edge[k + 1] - edge[k]});
    }
  }

  int of_b = 0, of_a = 0;  // winding number of b around the first corner of a, and the other way round
  for (int64_t k = 0; k < nb; ++k) {
    const bool from = w.by[k] >= w.ay[0], to = w.by[k + 1] >= w.ay[0];
    if (from != to && (w.a_of_b[k] != 0) == to) of_b += to ? 1 : -1;
  }
  for (int64_t i = 0; i < na; ++i) {
    const bool from = w.ay[i] > w.by[0], to = w.ay[i + 1] > w.by[0];
    if (from != to && (w.b_of_a[i * (nb + 1)] != 0) == to) of_a += to ? 1 : -1;
  }

  auto& crossings = w.crossings;
  std::sort(crossings.begin(), crossings.end(), [](const Crossing& p, const Crossing& q) {
    return p.a != q.a ? p.a < q.a : p.along_a < q.along_a;
  });
  int64_t twice = walk_along(
      a, crossings, of_b, [](const Crossing& c) { return c.a; }, [](const Crossing& c) { return c.step_a; });
  std::sort(crossings.begin(), crossings.end(), [](const Crossing& p, const Crossing& q) {
    return p.b != q.b ? p.b < q.b : p.along_b < q.along_b;
  });
  twice += walk_along(
      b, crossings, of_a, [](const Crossing& c) { return c.b; }, [](const Crossing& c) { return c.step_b; });
  return 0.5 * static_cast<double>(std::abs(twice));
}

// Kept polygons by the squares of a grid that their boxes touch.
class Kept {
 public:
  Kept(const int32_t* points, int64_t n, double reach) {
    int32_t bottom = std::numeric_limits<int32_t>::min(), right = bottom;
    for (int64_t i = 0; i < n; ++i) {
      y0_ = std::min(y0_, points[2 * i]), bottom = std::max(bottom, points[2 * i]);
      x0_ = std::min(x0_, points[2 * i + 1]), right = std::max(right, points[2 * i + 1]);
    }
    const double height = static_cast<double>(bottom) - y0_ + 1, width = static_cast<double>(right) - x0_ + 1;
    side_ = std::max({8.0, reach, std::sqrt(height * width / (4.0 * n + 1024))});
    rows_ = static_cast<int64_t>(height / side_) + 1, columns_ = static_cast<int64_t>(width / side_) + 1;
    squares_.resize(rows_ * columns_);
  }

  void add(const Polygon& p) {
    for (int64_t r = row(p.y0); r <= row(p.y1); ++r)
      for (int64_t c = column(p.x0); c <= column(p.x1); ++c) squares_[r * columns_ + c].push_back(size());
    polygons_.push_back(p);
  }

  // Whether a polygon kept as number `first` or later overlaps p by more than `threshold` of the smaller area.
  bool suppress(const Polygon& p, int64_t first, float threshold, Workspace& w) const {
    auto& near = w.near;
    near.clear();
    double best = -1;
    for (int64_t r = row(p.y0); r <= row(p.y1); ++r)
      for (int64_t c = column(p.x0); c <= column(p.x1); ++c) {
        const auto& square = squares_[r * columns_ + c];
        for (auto k = std::lower_bound(square.begin(), square.end(), first); k != square.end(); ++k) {
          const Polygon& q = polygons_[*k];
          const int32_t top = std::max(p.y0, q.y0), left = std::max(p.x0, q.x0);
          const int64_t height = int64_t{std::min(p.y1, q.y1)} - top, width = int64_t{std::min(p.x1, q.x1)} - left;
          if (height <= 0 || width <= 0 || row(top) != r || column(left) != c) continue;  // seen in one square only
          const double most = overlap(static_cast<double>(height * width), p, q);  // what is shared lies in both boxes
          if (static_cast<float>(most) <= threshold) continue;
          near.push_back(*k);
          if (most > best) best = most, std::swap(near.front(), near.back());  // the likeliest is tried first
        }
      }
    for (int64_t k : near)
      if (static_cast<float>(overlap(shared_area(polygons_[k], p, w), p, polygons_[k])) > threshold) return true;
    return false;
  }

  int64_t size() const { return static_cast<int64_t>(polygons_.size()); }

 private:
  static double overlap(double shared, const Polygon& p, const Polygon& q) {
    return shared / (std::min(p.area, q.area) + 1e-10);
  }
  int64_t row(int32_t y) const { return square(y, y0_, rows_); }
  int64_t column(int32_t x) const { return square(x, x0_, columns_); }
  int64_t square(int32_t at, int32_t from, int64_t count) const {
    const int64_t k = static_cast<int64_t>(std::floor((static_cast<double>(at) - from) / side_));
    return std::min(std::max<int64_t>(k, 0), count - 1);
  }

  int32_t y0_ = std::numeric_limits<int32_t>::max(), x0_ = y0_;
  double side_;
  int64_t rows_, columns_;
  std::vector<std::vector<int64_t>> squares_;
  std::vector<Polygon> polygons_;
};

// Mark the polygons that no better one overlaps by more than `threshold`; they come in order, the best first.
void star_nms(array_in<int32_t, 2> points, array_in<float, 2> distances, float threshold, array_out<uint8_t, 1> keep,
              int threads) {
  require_length(points, 1, 2), require_same_size(points, 0, distances, 0, 1), require_same_size(points, 0, keep, 0, 1);
  nb::gil_scoped_release release;
  const int64_t n = points.shape(0), n_rays = distances.shape(1);
  if (n == 0) return;
  const Rays<float> rays(n_rays);
  double reach = 0;
  for (int64_t i = 0; i < n * n_rays; ++i) {
    const float d = distances.data()[i];
    if (d > 0 && d < 1e6f) reach += d;
  }
  Kept kept(points.data(), n, 2 * reach / static_cast<double>(n * n_rays));
  uint8_t* flags = keep.data();
  // A piece of polygons is compared with all that are kept before it, in parallel; those that remain are few, and are
  // compared among each other in order.
  Workspace own;
  for (int64_t begin = 0, end; begin < n; begin = end) {
    end = std::min(n, begin + std::min<int64_t>(std::max<int64_t>(begin, 256), 16384));
    const int64_t before = kept.size();
    parallel_for(end - begin, 128, threads, [&](int64_t from, int64_t to) {
      Workspace w;
      for (int64_t i = begin + from; i < begin + to; ++i) {
        build(w.polygon, points.data() + 2 * i, distances.data() + i * n_rays, rays);
        flags[i] = !kept.suppress(w.polygon, 0, threshold, w);
      }
    });
    for (int64_t i = begin; i < end; ++i) {
      if (!flags[i]) continue;
      build(own.polygon, points.data() + 2 * i, distances.data() + i * n_rays, rays);
      flags[i] = !kept.suppress(own.polygon, before, threshold, own);
      if (flags[i]) kept.add(own.polygon);
    }
  }
}

// --- painting ---------------------------------------------------------------------------------------------------

// Set the free pixels of a row from x0 to x1, both included as far as they are whole numbers.
void paint(int32_t* row, int64_t width, double x0, double x1, int32_t id) {
  constexpr double slack = 1e-9;  // a pixel on the outline belongs to the polygon
  const double first = std::max(0.0, std::ceil(std::min(x0, x1) - slack));
  const double last = std::min(static_cast<double>(width - 1), std::floor(std::max(x0, x1) + slack));
  for (int64_t x = static_cast<int64_t>(first); static_cast<double>(x) <= last; ++x)
    if (row[x] == 0) row[x] = id;
}

// Number the pixels inside each polygon or on its outline, the first polygon with 1; earlier ones lie on top.
void star_paint(array_in<int32_t, 2> points, array_in<float, 2> distances, array_out<int32_t, 2> labels, int threads) {
  require_length(points, 1, 2), require_same_size(points, 0, distances, 0, 1);
  nb::gil_scoped_release release;
  const int64_t n = points.shape(0), n_rays = distances.shape(1), height = labels.shape(0), width = labels.shape(1);
  const Rays<double> rays(n_rays);
  std::vector<float> reach(n);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k < n_rays; ++k) reach[i] = std::max(reach[i], std::abs(distances.data()[i * n_rays + k]));
  std::fill_n(labels.data(), height * width, 0);
  parallel_for(height, 64, threads, [&](int64_t begin, int64_t end) {
    std::vector<double> ys(n_rays + 1), xs(n_rays + 1), cuts;
    for (int64_t i = 0; i < n; ++i) {
      const int32_t *point = points.data() + 2 * i, id = static_cast<int32_t>(i + 1);
      if (point[0] + reach[i] < begin - 1 || point[0] - reach[i] > end) continue;
      const float* distance = distances.data() + i * n_rays;
      for (int64_t k = 0; k < n_rays; ++k) {
        ys[k] = static_cast<float>(distance[k] * rays.y[k]) + static_cast<float>(point[0]);
        xs[k] = static_cast<float>(distance[k] * rays.x[k]) + static_cast<float>(point[1]);
      }
      ys[n_rays] = ys[0], xs[n_rays] = xs[0];
      const auto rows = std::minmax_element(ys.begin(), ys.end());
      const double top = std::max(std::ceil(*rows.first), static_cast<double>(begin));
      const double bottom = std::min(std::floor(*rows.second), static_cast<double>(end - 1));
      for (double y = top; y <= bottom; ++y) {
        int32_t* row = labels.data() + static_cast<int64_t>(y) * width;
        cuts.clear();
        for (int64_t k = 0; k < n_rays; ++k) {
          const double y0 = ys[k], x0 = xs[k], y1 = ys[k + 1], x1 = xs[k + 1];
          if (y0 == y) paint(row, width, x0, y1 == y ? x1 : x0, id);  // a corner or an edge that lies on the row
          if ((y0 <= y) != (y1 <= y)) cuts.push_back(x0 + (y - y0) * (x1 - x0) / (y1 - y0));
        }
        std::sort(cuts.begin(), cuts.end());
        for (size_t k = 0; k + 1 < cuts.size(); k += 2) paint(row, width, cuts[k], cuts[k + 1], id);
      }
    }
  });
}

}  // namespace
}  // namespace cellweave

void bind_star_convex(nanobind::module_& m) {
  using namespace nanobind::literals;
  m.def("star_distances", &cellweave::star_distances, "labels"_a.noconvert(), "distances"_a.noconvert(),
        "threads"_a = 0,
        "Write into `distances` (R, Y, X) float32 how far each pixel's object reaches along R rays; 0 in background.");
  m.def("star_nms", &cellweave::star_nms, "points"_a.noconvert(), "distances"_a.noconvert(), "threshold"_a,
        "keep"_a.noconvert(), "threads"_a = 0,
        "Mark in `keep` (N,) uint8 the polygons at (N, 2) int32 with (N, R) float32 distances, the best first, that no\n"
        "better one overlaps by more than `threshold` of the smaller area.");
  m.def("star_paint", &cellweave::star_paint, "points"_a.noconvert(), "distances"_a.noconvert(),
        "labels"_a.noconvert(), "threads"_a = 0,
        "Paint polygons 1..N into `labels` (Y, X) int32; earlier ones lie on top.");
}
