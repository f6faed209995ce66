// A smooth distance field in each object, its gradient, and cells from where pixels go along it (Cutler et al. 2022).
#include <array>
#include <cmath>
#include <tuple>

#include "flows.hpp"

namespace cellweave {

struct DistanceBox {
  int32_t y0, x0, y1, x1;  // half open
};

// Distances of one object in a buffer with a margin of one pixel; kept by each thread to save allocations.
struct DistanceField {
  int64_t height = 0, width = 0, stride = 0;
  bool mirror_top = false, mirror_bottom = false, mirror_left = false, mirror_right = false;
  std::vector<float> inside, now, next;
  std::vector<int64_t> first, last;  // object pixels of each row lie in first..last - 1
  int64_t at(int64_t y, int64_t x) const { return (y + 1) * stride + x + 1; }
};

static inline float least(float a, float b) { return a < b ? a : b; }
static inline float most(float a, float b) { return a > b ? a : b; }

// Upwind solution of |grad d| = 1 on a cross with arms of length h, whose smaller values along both lines are a and b.
static inline float solve_cross(float a, float b, float h) {
  const float difference = a > b ? a - b : b - a;
  const float two = 0.5f * ((a + b) + std::sqrt(most(2 * h * h - difference * difference, 0.0f)));
  return difference < h ? two : least(a, b) + h;
}

constexpr float kRoot2 = 1.41421356f;
// A sweep that changes no pixel by more is the last.
constexpr float kSettled = 1e-4f;

// One sweep over a row: the geometric mean of the solutions on the upright and on the diagonal cross. Returns whether a
// pixel changed.
CELLWEAVE_WIDE static int sweep_row(const float* inside, const float* now, float* next, int64_t stride, int64_t first,
                                    int64_t last) {
  int changed = 0;
  for (int64_t i = first; i < last; ++i) {
    const float upright = solve_cross(least(now[i - stride], now[i + stride]), least(now[i - 1], now[i + 1]), 1.0f);
    const float diagonal = solve_cross(least(now[i - stride - 1], now[i + stride + 1]),
                                       least(now[i - stride + 1], now[i + stride - 1]), kRoot2);
    const float value = inside[i] * std::sqrt(upright * diagonal);
    changed |= most(value - now[i], now[i] - value) > kSettled;
    next[i] = value;
  }
  return changed;
}

// Beyond the border of the image the object goes on as in a mirror.
static void mirror(DistanceField& f) {
  float* d = f.now.data();
  for (int64_t y = 0; y < f.height; ++y) {
    if (f.mirror_left) d[f.at(y, -1)] = d[f.at(y, 0)];
    if (f.mirror_right) d[f.at(y, f.width)] = d[f.at(y, f.width - 1)];
  }
  if (f.mirror_top) std::copy_n(d + f.at(0, -1), f.stride, d + f.at(-1, -1));
  if (f.mirror_bottom) std::copy_n(d + f.at(f.height - 1, -1), f.stride, d + f.at(f.height, -1));
}

// The distances within `box` of the pixels for which inside(pixel of the image) holds. `open`: whether the region goes on
// beyond the box at its top, bottom, left and right; it goes on as in a mirror there.
template <typename Inside>
static void solve(const DistanceBox& box, int64_t image_width, const std::array<bool, 4>& open, const Inside& inside,
                  DistanceField& f) {
  f.height = box.y1 - box.y0, f.width = box.x1 - box.x0, f.stride = f.width + 2;
  const int64_t size = (f.height + 2) * f.stride;
  f.inside.assign(size, 0), f.now.assign(size, 0), f.next.assign(size, 0);
  f.first.assign(f.height, f.width), f.last.assign(f.height, 0);
  int64_t count = 0;
  for (int64_t y = 0; y < f.height; ++y)
    for (int64_t x = 0; x < f.width; ++x)
      if (inside((box.y0 + y) * image_width + box.x0 + x)) {
        f.inside[f.at(y, x)] = 1, f.last[y] = x + 1, ++count;
        if (f.first[y] > x) f.first[y] = x;
      }
  const bool endless = count == f.height * f.width && open[0] && open[1] && open[2] && open[3];
  f.mirror_top = !endless && open[0], f.mirror_bottom = !endless && open[1];
  f.mirror_left = !endless && open[2], f.mirror_right = !endless && open[3];
  // From below every value only grows, by at most the distance of a step in a sweep: the sweeps end.
  for (int changed = 1; changed;) {
    changed = 0;
    mirror(f);
    for (int64_t y = 0; y < f.height; ++y)
      if (f.first[y] < f.last[y])
        changed |= sweep_row(f.inside.data(), f.now.data(), f.next.data(), f.stride, f.at(y, f.first[y]),
                             f.at(y, f.last[y]));
    f.now.swap(f.next);
  }
  mirror(f);
}

// A gradient this long or longer is made a unit flow; shorter ones, on ridges, stay short in proportion.
constexpr float kSlope = 0.5f;

static void flow_at(const DistanceField& f, int64_t i, float& dy, float& dx) {
  const float* d = f.now.data();
  dy = 0.5f * (d[i + f.stride] - d[i - f.stride]), dx = 0.5f * (d[i + 1] - d[i - 1]);
  const float length = most(std::sqrt(dy * dy + dx * dx), kSlope);
  dy /= length, dx /= length;
}

static bool boundary_at(const DistanceField& f, int64_t i) {
  const float* d = f.now.data();
  return d[i - f.stride] == 0 || d[i + f.stride] == 0 || d[i - 1] == 0 || d[i + 1] == 0;
}

// Calls visit(object, field of the object) for objects 1..n.
template <typename Visit>
static void visit_fields(const array_in<int32_t, 2>& labels, const array_in<int32_t, 2>& boxes, int threads,
                         const Visit& visit) {
  const auto* box = reinterpret_cast<const DistanceBox*>(boxes.data());
  const int64_t height = labels.shape(0), width = labels.shape(1);
  const int64_t n = boxes.shape(0), grain = std::max<int64_t>(1, std::min<int64_t>(16, n / 32));
  parallel_for(n, grain, threads, [&](int64_t begin, int64_t end) {
    DistanceField field;
    for (int64_t k = begin; k < end; ++k) {
      const DistanceBox& b = box[k];
      if (b.y1 <= b.y0) continue;
      solve(b, width, {b.y0 == 0, b.y1 == height, b.x0 == 0, b.x1 == width},
            [&](int64_t pixel) { return labels.data()[pixel] == k + 1; }, field);
      for (int64_t y = 0; y < field.height; ++y)
        for (int64_t x = field.first[y]; x < field.last[y]; ++x)
          if (const int64_t i = field.at(y, x); field.inside[i] > 0)
            visit(k, field, i, (b.y0 + y) * width + b.x0 + x);
    }
  });
}

void smooth_distance(array_in<int32_t, 2> labels, array_in<int32_t, 2> boxes, array_out<float, 2> distance,
                     int threads) {
  require_length(boxes, 1, 4), require_same_size(labels, 0, distance, 0);
  nb::gil_scoped_release release;
  float* out = distance.data();
  visit_fields(labels, boxes, threads,
               [&](int64_t, const DistanceField& f, int64_t i, int64_t pixel) { out[pixel] = f.now[i]; });
}

void distance_maps(array_in<int32_t, 2> labels, array_in<int32_t, 2> boxes, array_out<float, 3> maps, int threads) {
  require_length(boxes, 1, 4), require_length(maps, 0, 4), require_same_size(labels, 0, maps, 1);
  nb::gil_scoped_release release;
  const int64_t size = labels.shape(0) * labels.shape(1);
  float *flow_y = maps.data(), *flow_x = flow_y + size, *probability = flow_x + size, *boundary = probability + size;
  visit_fields(labels, boxes, threads, [&](int64_t, const DistanceField& f, int64_t i, int64_t pixel) {
    flow_at(f, i, flow_y[pixel], flow_x[pixel]);
    probability[pixel] = 1;
    boundary[pixel] = boundary_at(f, i);
  });
}

// Maps of a picture as `decode` sees them.
struct FlowMaps : FlowField {
  const float* boundary;

  FlowMaps(const array_in<float, 3>& maps, float threshold)
      : FlowField(maps, threshold), boundary(probability + size()) {}

  // The flow at (y, x), at most 1 px long.
  void sample(float y, float x, float& sy, float& sx) const {
    FlowField::sample(y, x, sy, sx);
    const float length = std::sqrt(sy * sy + sx * sx);
    if (!(length < 1e30f)) sy = sx = 0;  // no direction
    if (length > 1) sy /= length, sx /= length;
  }
};

// Path ends are told apart to half a pixel: cell (v, u) of their grid is around (v / 2, u / 2).
struct EndGrid {
  int64_t height, width;
  EndGrid(const FlowMaps& f) : height(std::max<int64_t>(0, 2 * f.height - 1)), width(std::max<int64_t>(0, 2 * f.width - 1)) {}
  int64_t size() const { return height * width; }
};

// Where pixel i comes to in `steps` steps along the flow, step t being 1 / (1 + t) of it: a cell of the grid.
static int64_t suppressed_end(const FlowMaps& f, const EndGrid& grid, int64_t i, int steps) {
  float y = static_cast<float>(i / f.width), x = static_cast<float>(i % f.width);
  for (int t = 0; t < steps; ++t) {
    float sy, sx;
    f.sample(y, x, sy, sx);
    if (sy * sy + sx * sx < 1e-6f) break;
    const float part = 1.0f / (1 + t);
    y = std::min(std::max(y + part * sy, 0.0f), static_cast<float>(f.height - 1));
    x = std::min(std::max(x + part * sx, 0.0f), static_cast<float>(f.width - 1));
  }
  return static_cast<int64_t>(2 * y + 0.5f) * grid.width + static_cast<int64_t>(2 * x + 0.5f);
}

// Flows of the length's fourth root, down and right: what is short says little of how far to go, much of where to.
static std::vector<float> lengthened(const FlowMaps& f, int threads) {
  std::vector<float> flows(2 * f.size());
  parallel_for(f.size(), 1 << 14, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float length = std::sqrt(f.dy[i] * f.dy[i] + f.dx[i] * f.dx[i]);
      const float part = length > 1e-6f ? std::sqrt(std::sqrt(length)) / length : 0.0f;
      flows[i] = part * f.dy[i], flows[f.size() + i] = part * f.dx[i];
    }
  });
  return flows;
}

// Write, for each pixel, the cell of the grid of half pixels where its path ends; -1 outside cells.
void suppressed_track(array_in<float, 3> maps, float threshold, int steps, array_out<int32_t, 2> ends, int threads) {
  require_length(maps, 0, 4), require_same_size(maps, 1, ends, 0);
  nb::gil_scoped_release release;
  FlowMaps f(maps, threshold);
  const std::vector<float> flows = lengthened(f, threads);
  f.dy = flows.data(), f.dx = f.dy + f.size();
  const EndGrid grid(f);
  int32_t* out = ends.data();
  parallel_for(f.size(), 1 << 13, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      out[i] = f.inside(i) ? static_cast<int32_t>(suppressed_end(f, grid, i, steps)) : -1;
  });
}

// Sets of numbers; the root of a set is its least member, whatever the order in which sets were joined.
struct Sets {
  std::vector<int32_t> parent;
  explicit Sets(int64_t n) : parent(n) {
    for (int64_t i = 0; i < n; ++i) parent[i] = static_cast<int32_t>(i);
  }
  int32_t find(int32_t i) {
    while (parent[i] != i) i = parent[i] = parent[parent[i]];
    return i;
  }
  void join(int32_t a, int32_t b) {
    a = find(a), b = find(b);
    if (a < b) parent[b] = a;
    else parent[a] = b;
  }
};

// Cells of the grid within sqrt(5) / 2 px of one another are near, the nearest first.
constexpr int kNear[20][2] = {{0, -1}, {0, 1},  {-1, 0},  {1, 0},  {-1, -1}, {-1, 1}, {1, -1}, {1, 1},  {0, -2}, {0, 2},
                              {-2, 0}, {2, 0},  {-1, -2}, {-1, 2}, {1, -2},  {1, 2},  {-2, -1}, {-2, 1}, {2, -1}, {2, 1}};

// DBSCAN on the grid: cells with `enough` ends in and near them are cores, near cores are one cluster, other ends belong
// to the nearest core, and those without one to clusters of their own. Writes clusters 1..n, numbered by their first
// pixels; returns n.
int32_t cluster_ends(array_in<int32_t, 2> ends, int enough, array_out<int32_t, 2> labels, int threads) {
  require_same_size(ends, 0, labels, 0);
  nb::gil_scoped_release release;
  const int64_t pixels = ends.shape(0) * ends.shape(1);
  const int64_t height = std::max<int64_t>(0, 2 * static_cast<int64_t>(ends.shape(0)) - 1);
  const int64_t width = std::max<int64_t>(0, 2 * static_cast<int64_t>(ends.shape(1)) - 1), size = height * width;
  const int32_t* end = ends.data();
  std::vector<int32_t> place(size, 0);  // ends in each cell, then 1 + its index among the cells with ends
  for (int64_t i = 0; i < pixels; ++i)
    if (end[i] >= 0) ++place[end[i]];
  std::vector<int32_t> cells, count;
  for (int64_t i = 0; i < size; ++i)
    if (place[i] > 0) cells.push_back(static_cast<int32_t>(i)), count.push_back(place[i]), place[i] = cells.size();
  const int64_t n = cells.size();
  auto near = [&](int64_t k, const auto& visit) {  // visit(index of a cell near cell k) until it says stop
    const int64_t y = cells[k] / width, x = cells[k] % width;
    for (const auto& [v, u] : kNear)
      if (y + v >= 0 && y + v < height && x + u >= 0 && x + u < width)
        if (const int32_t other = place[cells[k] + v * width + u]; other > 0 && visit(other - 1)) return;
  };
  std::vector<uint8_t> core(n);
  parallel_for(n, 1 << 13, threads, [&](int64_t begin, int64_t stop) {
    for (int64_t k = begin; k < stop; ++k) {
      int64_t sum = count[k];
      if (sum < enough) near(k, [&](int32_t other) { return (sum += count[other]) >= enough; });
      core[k] = sum >= enough;
    }
  });
  Sets sets(n);
  for (int32_t k = 0; k < n; ++k)
    if (core[k]) near(k, [&](int32_t other) { return other > k && core[other] && (sets.join(k, other), false); });
  std::vector<int32_t> lone;  // neither core nor near one
  for (int32_t k = 0; k < n; ++k) {
    if (core[k]) continue;
    bool found = false;
    near(k, [&](int32_t other) { return core[other] && (sets.parent[k] = other, found = true); });
    if (!found) lone.push_back(k);
  }
  for (int32_t k : lone) core[k] = 2;
  for (int32_t k : lone)
    near(k, [&](int32_t other) { return other > k && core[other] == 2 && (sets.join(k, other), false); });

  std::vector<int32_t> id(n, 0);
  int32_t clusters = 0;
  int32_t* out = labels.data();
  for (int64_t i = 0; i < pixels; ++i) {
    out[i] = 0;
    if (end[i] < 0) continue;
    const int32_t root = sets.find(place[end[i]] - 1);
    if (id[root] == 0) id[root] = ++clusters;
    out[i] = id[root];
  }
  return clusters;
}

// Two clusters that touch, and the box of the pixels that do in one tile of the image; how much the maps at these pixels
// differ from those of one cell, and from those of two.
struct Contact {
  int32_t low, high;
  int64_t tile;
  DistanceBox box;
  double one = 0, two = 0;
  // What the maps say for a border: from 0 where they are those of one cell to 1 where they are those of two.
  double evidence() const { return one + two > 0 ? one / (one + two) : 0; }
  auto key() const { return std::tuple(low, high, tile); }
};

// Distances are solved around contacts; a long contact is seen in parts, each within a tile of this side.
constexpr int64_t kTile = 256;

// All pairs of clusters that touch, by tiles.
static std::vector<Contact> find_contacts(const FlowMaps& f, const int32_t* label, int threads) {
  constexpr int64_t kRows = 32;
  std::vector<std::vector<Contact>> found((f.height + kRows - 1) / kRows);
  auto gather = [](std::vector<Contact>& contacts) {
    std::sort(contacts.begin(), contacts.end(), [](const Contact& a, const Contact& b) { return a.key() < b.key(); });
    size_t kept = 0;
    for (const Contact& c : contacts)
      if (kept > 0 && contacts[kept - 1].key() == c.key()) {
        DistanceBox& b = contacts[kept - 1].box;
        b = {std::min(b.y0, c.box.y0), std::min(b.x0, c.box.x0), std::max(b.y1, c.box.y1), std::max(b.x1, c.box.x1)};
      } else {
        contacts[kept++] = c;
      }
    contacts.resize(kept);
  };
  parallel_for(f.height, kRows, threads, [&](int64_t begin, int64_t end) {
    auto& contacts = found[begin / kRows];
    auto look = [&](int64_t y, int64_t x, int64_t v, int64_t u) {
      const int32_t one = label[y * f.width + x], other = label[v * f.width + u];
      if (one == 0 || other == 0 || one == other) return;
      const DistanceBox box{static_cast<int32_t>(y), static_cast<int32_t>(x), static_cast<int32_t>(v + 1),
                            static_cast<int32_t>(u + 1)};
      contacts.push_back({std::min(one, other), std::max(one, other), y / kTile * f.width + x / kTile, box});
    };
    for (int64_t y = begin; y < end; ++y)
      for (int64_t x = 0; x < f.width; ++x) {
        if (x + 1 < f.width) look(y, x, y, x + 1);
        if (y + 1 < f.height) look(y, x, y + 1, x);
      }
    gather(contacts);
  });
  std::vector<Contact> all;
  for (const auto& part : found) all.insert(all.end(), part.begin(), part.end());
  gather(all);
  return all;
}

// What is around a contact, as far as it matters for the maps there.
constexpr int32_t kAround = 4;

// Squared difference, at these pixels of the image, between the maps and those of a region of `box` that goes on beyond it.
template <typename Inside>
static double difference(const FlowMaps& f, const DistanceBox& box, const std::vector<int64_t>& pixels,
                         const Inside& inside, DistanceField& field) {
  solve(box, f.width, {true, true, true, true}, inside, field);
  double sum = 0;
  for (const int64_t pixel : pixels) {
    const int64_t at = field.at(pixel / f.width - box.y0, pixel % f.width - box.x0);
    float dy, dx;
    flow_at(field, at, dy, dx);
    const float own[3] = {dy, dx, static_cast<float>(boundary_at(field, at))};
    const float found[3] = {f.dy[pixel], f.dx[pixel], f.boundary[pixel]};
    for (int k = 0; k < 3; ++k) {
      const double apart = double(std::min(std::max(found[k], -1.0f), 1.0f)) - own[k];
      sum += apart * apart;
    }
  }
  return sum;
}

// Compare the maps at the pixels that touch with those of one cell and of two. Other clusters there may be parts of these
// cells or not, whichever tells the maps better.
static void compare(const FlowMaps& f, const int32_t* label, Contact& c, DistanceField& field) {
  const int32_t height = static_cast<int32_t>(f.height), width = static_cast<int32_t>(f.width);
  const DistanceBox box{std::max(0, c.box.y0 - kAround), std::max(0, c.box.x0 - kAround),
                        std::min(height, c.box.y1 + kAround), std::min(width, c.box.x1 + kAround)};
  std::vector<int64_t> low, high;
  bool others = false;
  for (int32_t y = box.y0; y < box.y1; ++y)
    for (int32_t x = box.x0; x < box.x1; ++x) {
      const int64_t i = static_cast<int64_t>(y) * width + x;
      const bool is_low = label[i] == c.low;
      if (!is_low && label[i] != c.high) {
        others |= label[i] != 0;
        continue;
      }
      const int32_t other = is_low ? c.high : c.low;
      if ((y > 0 && label[i - width] == other) || (y + 1 < height && label[i + width] == other) ||
          (x > 0 && label[i - 1] == other) || (x + 1 < width && label[i + 1] == other))
        (is_low ? low : high).push_back(i);
    }
  auto of_cell = [&](const std::vector<int64_t>& pixels, const auto& alone, const auto& with_others) {
    const double found = difference(f, box, pixels, alone, field);
    return others ? std::min(found, difference(f, box, pixels, with_others, field)) : found;
  };
  auto of_part = [&](const std::vector<int64_t>& pixels, int32_t id, int32_t other) {
    return of_cell(pixels, [&](int64_t i) { return label[i] == id; },
                   [&](int64_t i) { return label[i] != 0 && label[i] != other; });
  };
  c.two = of_part(low, c.low, c.high) + of_part(high, c.high, c.low);
  low.insert(low.end(), high.begin(), high.end());
  c.one = of_cell(low, [&](int64_t i) { return label[i] == c.low || label[i] == c.high; },
                  [&](int64_t i) { return label[i] != 0; });
}

// Contacts between the clusters for which wanted(low, high) holds, one a pair, compared with both cases.
template <typename Wanted>
static std::vector<Contact> weighed_contacts(const FlowMaps& f, const int32_t* label, int threads,
                                             const Wanted& wanted) {
  std::vector<Contact> contacts = find_contacts(f, label, threads);
  contacts.erase(std::remove_if(contacts.begin(), contacts.end(),
                                [&](const Contact& c) { return !wanted(c.low, c.high); }),
                 contacts.end());
  parallel_for(contacts.size(), 8, threads, [&](int64_t begin, int64_t end) {
    DistanceField field;
    for (int64_t k = begin; k < end; ++k) compare(f, label, contacts[k], field);
  });
  size_t kept = 0;
  for (const Contact& c : contacts)
    if (kept > 0 && contacts[kept - 1].low == c.low && contacts[kept - 1].high == c.high)
      contacts[kept - 1].one += c.one, contacts[kept - 1].two += c.two;
    else
      contacts[kept++] = c;
  contacts.resize(kept);
  return contacts;
}

// Join clusters 1..n that touch without a border between them, in place. First each cluster of fewer than `min_size`
// pixels joins the larger one to which the evidence of a border is least, if it is nearer to `evidence` than to 1; then
// all that touch with less than `evidence` are one.
void join_clusters(array_in<float, 3> maps, float threshold, int min_size, float evidence, int32_t n,
                   array_out<int32_t, 2> labels, int threads) {
  require_length(maps, 0, 4), require_same_size(maps, 1, labels, 0);
  nb::gil_scoped_release release;
  const FlowMaps f(maps, threshold);
  int32_t* label = labels.data();
  std::vector<int32_t> to(n + 1);
  auto apply = [&] {
    parallel_for(f.size(), 1 << 16, threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) label[i] = to[label[i]];
    });
  };
  std::vector<int64_t> size(n + 1, 0);
  for (int64_t i = 0; i < f.size(); ++i) ++size[label[i]];
  for (int32_t k = 0; k <= n; ++k) to[k] = k;
  std::vector<double> least(n + 1, (1 + evidence) / 2);
  const auto is_small = [&](int32_t k) { return size[k] < min_size; };
  const auto one_is = [&](int32_t a, int32_t b) { return is_small(a) != is_small(b); };
  for (const Contact& c : weighed_contacts(f, label, threads, one_is)) {
    const auto [small, large] = is_small(c.low) ? std::pair(c.low, c.high) : std::pair(c.high, c.low);
    if (c.evidence() < least[small]) least[small] = c.evidence(), to[small] = large;
  }
  apply();
  Sets sets(n + 1);
  for (const Contact& c : weighed_contacts(f, label, threads, [](int32_t, int32_t) { return true; }))
    if (c.evidence() < evidence) sets.join(c.low, c.high);
  for (int32_t k = 0; k <= n; ++k) to[k] = sets.find(k);
  apply();
}

// For each object: mean squared length of the difference between the flows of `maps` and those of its own shape, its mean
// probability, and the length of its flows over that of its own shape's (1 where those have none).
void distance_flow_errors(array_in<int32_t, 2> labels, array_in<int32_t, 2> boxes, array_in<float, 3> maps,
                          array_out<double, 2> scores, int threads) {
  require_length(boxes, 1, 4), require_length(maps, 0, 4), require_same_size(labels, 0, maps, 1);
  require_length(scores, 0, boxes.shape(0)), require_length(scores, 1, 3);
  nb::gil_scoped_release release;
  const int64_t n = boxes.shape(0);
  const FlowMaps map(maps, 0);
  struct Sums {
    double error = 0, probability = 0, found = 0, own = 0, pixels = 0;
  };
  std::vector<Sums> sums(n);
  visit_fields(labels, boxes, threads, [&](int64_t k, const DistanceField& f, int64_t i, int64_t pixel) {
    float dy, dx;
    flow_at(f, i, dy, dx);
    const double ey = double(dy) - map.dy[pixel], ex = double(dx) - map.dx[pixel];
    Sums& s = sums[k];
    s.error += ey * ey + ex * ex, s.probability += map.probability[pixel], s.pixels += 1;
    s.found += std::hypot(double(map.dy[pixel]), double(map.dx[pixel])), s.own += std::hypot(double(dy), double(dx));
  });
  for (int64_t k = 0; k < n; ++k) {
    const Sums& s = sums[k];
    double* score = scores.data() + 3 * k;
    score[0] = s.error / s.pixels, score[1] = s.probability / s.pixels, score[2] = s.own > 0 ? s.found / s.own : 1;
  }
}

}  // namespace cellweave

void bind_distance_flows(nanobind::module_& m) {
  using namespace nanobind::literals;
  m.def("smooth_distance", &cellweave::smooth_distance, "labels"_a.noconvert(), "boxes"_a.noconvert(),
        "distance"_a.noconvert(), "threads"_a = 0,
        "Write the smooth distance to the border of objects 1..n with the given boxes into `distance` (Y, X) float32.");
  m.def("distance_maps", &cellweave::distance_maps, "labels"_a.noconvert(), "boxes"_a.noconvert(),
        "maps"_a.noconvert(), "threads"_a = 0,
        "Write flow_y, flow_x, probability and boundary of objects 1..n into `maps` (4, Y, X) float32.");
  m.def("suppressed_track", &cellweave::suppressed_track, "maps"_a.noconvert(), "threshold"_a, "steps"_a,
        "ends"_a.noconvert(), "threads"_a = 0,
        "Write into `ends` (Y, X) int32 where on the grid of half pixels each pixel's path ends, -1 outside cells.");
  m.def("cluster_ends", &cellweave::cluster_ends, "ends"_a.noconvert(), "enough"_a, "labels"_a.noconvert(),
        "threads"_a = 0, "Label pixels by the cluster of path ends they belong to; returns the number of clusters.");
  m.def("join_clusters", &cellweave::join_clusters, "maps"_a.noconvert(), "threshold"_a, "min_size"_a, "evidence"_a,
        "n"_a, "labels"_a.noconvert(), "threads"_a = 0,
        "Join clusters 1..n that touch without a border between them, in place.");
  m.def("distance_flow_errors", &cellweave::distance_flow_errors, "labels"_a.noconvert(), "boxes"_a.noconvert(),
        "maps"_a.noconvert(), "scores"_a.noconvert(), "threads"_a = 0,
        "Write (mean squared flow error, mean probability, relative flow length) of each object into `scores` (n, 3).");
}
