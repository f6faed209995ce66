// Heat diffusion inside each object, from its center: the flows of Cellpose (Stringer et al. 2021).
#include <cmath>
#include <limits>
#include <utility>

#include "parallel.hpp"

namespace cellweave {

struct Box {
  int32_t y0, x0, y1, x1;  // half open
  int32_t height() const { return y1 - y0; }
  int32_t width() const { return x1 - x0; }
};

// Heat of one object in a buffer with a border of one empty pixel; kept by each thread to save allocations.
struct Heat {
  int64_t stride = 0, height = 0, width = 0;
  std::vector<double> inside, heat, rows;
  int64_t at(int64_t y, int64_t x) const { return (y + 1) * stride + x + 1; }
};

// One iteration on the flattened buffer: heat = inside * (mean of the 3 x 3 neighbours). The border is outside, so
// neighbours that wrap from one row to the next add zero.
CELLWEAVE_WIDE static void average_3x3(const double* inside, double* heat, double* rows, int64_t stride,
                                       int64_t first, int64_t last) {
  for (int64_t i = first - 1; i < last + 1; ++i) rows[i] = (heat[i - stride] + heat[i + stride]) + heat[i];
  for (int64_t i = first; i < last; ++i)
    heat[i] = inside[i] * (((rows[i - 1] + rows[i + 1]) + rows[i]) * (1.0 / 9.0));
}

// Pixels of the object where heat enters: those nearest to its mean position, or to the middle of its bounding box.
// Ties that touch the first one share the source, so that mirrored objects get mirrored flows. Ties further apart (in
// rings and crescents) do not: each would be a middle of its own, and the object would fall into pieces.
static std::vector<int64_t> find_sources(const Heat& h, bool from_box) {
  double count = 0, sum_y = 0, sum_x = 0;
  for (int64_t y = 0; y < h.height; ++y)
    for (int64_t x = 0; x < h.width; ++x)
      if (h.inside[h.at(y, x)] > 0) count += 1, sum_y += y, sum_x += x;
  if (from_box) count = 2, sum_y = h.height - 1, sum_x = h.width - 1;
  std::vector<int64_t> sources;
  double nearest = std::numeric_limits<double>::infinity();
  for (int64_t y = 0; y < h.height; ++y)
    for (int64_t x = 0; x < h.width; ++x) {
      if (!(h.inside[h.at(y, x)] > 0)) continue;
      const double dy = count * y - sum_y, dx = count * x - sum_x, distance = dy * dy + dx * dx;
      if (distance > nearest) continue;
      if (distance < nearest) sources.clear(), nearest = distance;
      sources.push_back(h.at(y, x));
    }
  const int64_t first_y = sources[0] / h.stride, first_x = sources[0] % h.stride;
  sources.erase(std::remove_if(sources.begin(), sources.end(),
                               [&](int64_t i) { return i / h.stride - first_y > 1 || std::abs(i % h.stride - first_x) > 1; }),
                sources.end());
  return sources;
}

static void diffuse(const int32_t* labels, int64_t image_width, int32_t id, const Box& box, bool from_box, Heat& h) {
  h.height = box.height(), h.width = box.width(), h.stride = h.width + 2;
  const int64_t size = (h.height + 2) * h.stride;
  // The averaging reads one element beyond the border rows on either side.
  h.inside.assign(size, 0), h.heat.assign(size + 2, 0), h.rows.assign(size + 2, 0);
  double* heat = h.heat.data() + 1;
  double* rows = h.rows.data() + 1;
  for (int64_t y = 0; y < h.height; ++y)
    for (int64_t x = 0; x < h.width; ++x)
      h.inside[h.at(y, x)] = labels[(box.y0 + y) * image_width + box.x0 + x] == id;
  const auto sources = find_sources(h, from_box);
  const double share = 1.0 / sources.size();
  // As the peer counts: height and width include the empty border.
  const int64_t iterations = 2 * (h.height + 2 + h.width + 2);
  for (int64_t i = 0; i < iterations; ++i) {
    for (int64_t source : sources) heat[source] += share;
    average_3x3(h.inside.data(), heat, rows, h.stride, h.stride + 1, size - h.stride - 1);
  }
}

// Calls visit(offset in the image, dy, dx) for each pixel of the object with the unit gradient of the heat.
template <typename Visit>
static void visit_flows(const Heat& h, const Box& box, int64_t image_width, const Visit& visit) {
  const double* heat = h.heat.data() + 1;
  for (int64_t y = 0; y < h.height; ++y)
    for (int64_t x = 0; x < h.width; ++x) {
      const int64_t i = h.at(y, x);
      if (!(h.inside[i] > 0)) continue;
      double dy = heat[i + h.stride] - heat[i - h.stride], dx = heat[i + 1] - heat[i - 1];
      // Differences that are only rounding (at the center of a symmetric object) are no direction.
      const double noise = 1e-10 * heat[i];
      if (std::abs(dy) <= noise) dy = 0;
      if (std::abs(dx) <= noise) dx = 0;
      const double largest = std::max(std::abs(dy), std::abs(dx));
      double length = 0;
      if (largest > 0) dy /= largest, dx /= largest, length = std::sqrt(dy * dy + dx * dx);
      visit((box.y0 + y) * image_width + box.x0 + x, length > 0 ? dy / length : 0.0, length > 0 ? dx / length : 0.0);
    }
}

static int64_t objects_a_piece(int64_t n) { return std::max<int64_t>(1, std::min<int64_t>(16, n / 32)); }

void diffusion_flows(array_in<int32_t, 2> labels, array_in<int32_t, 2> boxes, bool from_box, array_out<float, 3> flows,
                     int threads) {
  require_length(boxes, 1, 4), require_length(flows, 0, 2), require_same_size(labels, 0, flows, 1);
  nb::gil_scoped_release release;
  const int64_t width = labels.shape(1), size = labels.shape(0) * width, n = boxes.shape(0);
  const auto* box = reinterpret_cast<const Box*>(boxes.data());
  float* out_y = flows.data();
  float* out_x = out_y + size;
  parallel_for(n, objects_a_piece(n), threads, [&](int64_t begin, int64_t end) {
    Heat heat;
    for (int64_t k = begin; k < end; ++k) {
      if (box[k].height() <= 0) continue;
      diffuse(labels.data(), width, static_cast<int32_t>(k + 1), box[k], from_box, heat);
      visit_flows(heat, box[k], width, [&](int64_t i, double dy, double dx) {
        out_y[i] = static_cast<float>(dy), out_x[i] = static_cast<float>(dx);
      });
    }
  });
}

// For each object: mean squared difference between `flows` and the flows of its own shape, its mean probability, and the
// mean length of `flows` where its own shape has a flow (1 where it has none).
void flow_errors(array_in<int32_t, 2> labels, array_in<int32_t, 2> boxes, array_in<float, 3> maps, bool from_box,
                 array_out<double, 2> scores, int threads) {
  require_length(boxes, 1, 4), require_length(maps, 0, 3), require_same_size(labels, 0, maps, 1);
  require_length(scores, 0, boxes.shape(0)), require_length(scores, 1, 3);
  nb::gil_scoped_release release;
  const int64_t width = labels.shape(1), size = labels.shape(0) * width, n = boxes.shape(0);
  const auto* box = reinterpret_cast<const Box*>(boxes.data());
  const float *map_y = maps.data(), *map_x = map_y + size, *probability = map_x + size;
  double* score = scores.data();
  parallel_for(n, objects_a_piece(n), threads, [&](int64_t begin, int64_t end) {
    Heat heat;
    for (int64_t k = begin; k < end; ++k) {
      if (box[k].height() <= 0) continue;
      diffuse(labels.data(), width, static_cast<int32_t>(k + 1), box[k], from_box, heat);
      double error = 0, sum = 0, length = 0, count = 0, moving = 0;
      visit_flows(heat, box[k], width, [&](int64_t i, double dy, double dx) {
        const double ey = dy - map_y[i], ex = dx - map_x[i];
        error += ey * ey + ex * ex, sum += probability[i], count += 1;
        if (dy == 0 && dx == 0) return;
        length += std::sqrt(static_cast<double>(map_y[i]) * map_y[i] + static_cast<double>(map_x[i]) * map_x[i]);
        moving += 1;
      });
      score[3 * k] = error / count, score[3 * k + 1] = sum / count;
      score[3 * k + 2] = moving > 0 ? length / moving : 1;
    }
  });
}

}  // namespace cellweave

void bind_diffusion(nanobind::module_& m) {
  using namespace nanobind::literals;
  m.def("diffusion_flows", &cellweave::diffusion_flows, "labels"_a.noconvert(), "boxes"_a.noconvert(), "from_box"_a,
        "flows"_a.noconvert(), "threads"_a = 0,
        "Write unit flows (dy, dx) of objects 1..n with the given boxes into `flows` (2, Y, X) float32.");
  m.def("flow_errors", &cellweave::flow_errors, "labels"_a.noconvert(), "boxes"_a.noconvert(), "maps"_a.noconvert(),
        "from_box"_a, "scores"_a.noconvert(), "threads"_a = 0,
        "Write (mean squared flow error, mean probability, mean flow length) of each object into `scores` (n, 3) float64.");
}
