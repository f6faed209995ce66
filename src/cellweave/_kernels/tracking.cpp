// Pixels follow the flows to the middle of their cell; end points that pile up are cells.
#include <cmath>

#include "flows.hpp"

namespace cellweave {

// A pixel is followed until it has left its neighbourhood and stands on another pixel of a cell: from there on it shares
// that pixel's path. Paths that never leave end where they rest, or after `steps`.
constexpr float kLeave2 = 9.0f;  // squared px
constexpr float kRest2 = 1e-6f;

// Next pixel on the path of pixel i (>= 0), or -1 - (pixel where its path ends). Near a sink steps swing from side to
// side: the end is the middle of the last step. Sinks of symmetric cells lie on a pixel or half way between two, so the
// end belongs to the pixel whose span of -3/4..1/4 px holds it: neither kind of sink is near a limit.
static int64_t follow(const FlowField& f, int64_t i, int steps) {
  const float y0 = static_cast<float>(i / f.width), x0 = static_cast<float>(i % f.width);
  float y = y0, x = x0, last_y = y0, last_x = x0;
  for (int step = 0; step < steps; ++step) {
    float sy, sx;
    f.sample(y, x, sy, sx);
    if (!std::isfinite(sy) || !std::isfinite(sx)) break;  // no direction: the path ends here
    last_y = y, last_x = x;
    y = std::min(std::max(y + sy, 0.0f), static_cast<float>(f.height - 1));
    x = std::min(std::max(x + sx, 0.0f), static_cast<float>(f.width - 1));
    const float moved_y = y - y0, moved_x = x - x0;
    if (moved_y * moved_y + moved_x * moved_x >= kLeave2) {
      const int64_t here = static_cast<int64_t>(y + 0.5f) * f.width + static_cast<int64_t>(x + 0.5f);
      if (f.inside(here)) return here;
    }
    if (sy * sy + sx * sx < kRest2) break;
  }
  y = 0.5f * (y + last_y), x = 0.5f * (x + last_x);
  return -1 - (static_cast<int64_t>(y + 0.75f) * f.width + static_cast<int64_t>(x + 0.75f));
}

// Write, for each pixel, the pixel where its path ends; -1 outside cells.
void track(array_in<float, 3> maps, float threshold, int steps, array_out<int32_t, 2> ends, int threads) {
  require_length(maps, 0, 3), require_same_size(maps, 1, ends, 0);
  nb::gil_scoped_release release;
  const FlowField field(maps, threshold);
  const int64_t size = field.size();
  std::vector<int32_t> next(size);
  parallel_for(size, 1 << 14, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      if (field.inside(i)) next[i] = static_cast<int32_t>(follow(field, i, steps));
  });
  int32_t* out = ends.data();
  parallel_for(size, 1 << 14, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (!field.inside(i)) {
        out[i] = -1;
        continue;
      }
      int32_t at = static_cast<int32_t>(i);
      int hops = 0;
      for (; hops < steps && next[at] >= 0; ++hops) at = next[at];
      out[i] = next[at] >= 0 ? at : -1 - next[at];
    }
  });
}

// Label pixels by the pile their path ends in. A pile starts at a pixel with more than `min_count` ends that no pixel
// within 5 x 5 exceeds, and grows up to 5 px over neighbours with more than 2 ends; larger piles win over smaller ones.
int32_t cluster(array_in<int32_t, 2> ends, int min_count, array_out<int32_t, 2> labels) {
  require_same_size(ends, 0, labels, 0);
  nb::gil_scoped_release release;
  const int64_t height = ends.shape(0), width = ends.shape(1), size = height * width;
  const int32_t* end = ends.data();
  std::vector<int32_t> count(size, 0);
  for (int64_t i = 0; i < size; ++i)
    if (end[i] >= 0) ++count[end[i]];

  std::vector<int64_t> peaks;
  for (int64_t i = 0; i < size; ++i) {
    if (count[i] <= min_count) continue;
    const int64_t y = i / width, x = i % width;
    bool highest = true;
    for (int64_t v = std::max<int64_t>(0, y - 2); highest && v <= std::min(height - 1, y + 2); ++v)
      for (int64_t u = std::max<int64_t>(0, x - 2); u <= std::min(width - 1, x + 2); ++u)
        if (count[v * width + u] > count[i]) highest = false;
    if (highest) peaks.push_back(i);
  }
  std::stable_sort(peaks.begin(), peaks.end(), [&](int64_t a, int64_t b) { return count[a] < count[b]; });

  constexpr int kReach = 5, kSide = 2 * kReach + 1;
  std::vector<int32_t> pile(size, 0);
  std::vector<int64_t> front, grown;
  for (size_t k = 0; k < peaks.size(); ++k) {
    const int32_t id = static_cast<int32_t>(k + 1);
    const int64_t peak_y = peaks[k] / width, peak_x = peaks[k] % width;
    bool seen[kSide][kSide] = {};
    seen[kReach][kReach] = true;
    pile[peaks[k]] = id;
    front.assign(1, peaks[k]);
    for (int round = 0; round < kReach; ++round) {
      grown.clear();
      for (int64_t i : front)
        for (int64_t y = std::max<int64_t>(0, i / width - 1); y <= std::min(height - 1, i / width + 1); ++y)
          for (int64_t x = std::max<int64_t>(0, i % width - 1); x <= std::min(width - 1, i % width + 1); ++x) {
            bool& visited = seen[y - peak_y + kReach][x - peak_x + kReach];
            if (visited || count[y * width + x] <= 2) continue;
            visited = true;
            pile[y * width + x] = id;
            grown.push_back(y * width + x);
          }
      front.swap(grown);
    }
  }
  int32_t* out = labels.data();
  for (int64_t i = 0; i < size; ++i) out[i] = end[i] >= 0 ? pile[end[i]] : 0;
  return static_cast<int32_t>(peaks.size());
}

}  // namespace cellweave

void bind_tracking(nanobind::module_& m) {
  using namespace nanobind::literals;
  m.def("track", &cellweave::track, "maps"_a.noconvert(), "threshold"_a, "steps"_a, "ends"_a.noconvert(),
        "threads"_a = 0,
        "Write into `ends` (Y, X) int32 the flat index where each pixel's path ends, -1 outside cells.");
  m.def("cluster", &cellweave::cluster, "ends"_a.noconvert(), "min_count"_a, "labels"_a.noconvert(),
        "Label pixels by the pile of path ends they belong to; returns the number of piles.");
}
