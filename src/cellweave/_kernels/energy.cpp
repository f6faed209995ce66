// Watershed energy: how deep each pixel lies in its object (Cell Segmenter: Hu et al. 2022), and what decoding needs.
#include <cmath>
#include <limits>

#include "parallel.hpp"

namespace cellweave {
namespace {

constexpr int32_t kFar = std::numeric_limits<int32_t>::max();  // no other object in this direction

// Distance along the column from each pixel to the nearest one of another label; the outside counts if `closed`.
void distances_in_columns(const int32_t* labels, int64_t height, int64_t width, bool closed, int32_t* distance,
                          int threads) {
  parallel_for(width, 256, threads, [&](int64_t begin, int64_t end) {
    const auto sweep = [&](int64_t y, int64_t before, bool first) {
      const int32_t *label = labels + y * width, *other = labels + before * width, *last = distance + before * width;
      int32_t* d = distance + y * width;
      for (int64_t x = begin; x < end; ++x) {
        const int32_t far = first ? kFar : d[x];
        const int32_t step = label[x] != other[x] ? 1 : last[x] == kFar ? kFar : last[x] + 1;
        d[x] = std::min(far, step);
      }
    };
    const auto edge = [&](int64_t y, bool first) {
      int32_t* d = distance + y * width;
      for (int64_t x = begin; x < end; ++x) d[x] = closed ? 1 : first ? kFar : d[x];
    };
    edge(0, true);
    for (int64_t y = 1; y < height; ++y) sweep(y, y - 1, true);
    edge(height - 1, height == 1);
    for (int64_t y = height - 2; y >= 0; --y) sweep(y, y + 1, false);
  });
}

// Memory of one thread: parabolas of the lower envelope, and from where on each is the lowest.
struct Envelope {
  std::vector<int64_t> at, height, from;
};

// Squared distances in one run of a row, pixels a to b - 1 of one object, from the distances in their columns: the lower
// envelope of parabolas in whole numbers (Meijster et al. 2000). A pixel beyond an end of the run is of another object,
// unless it lies outside of the image and that does not count.
void distances_in_run(const int32_t* column, int64_t a, int64_t b, bool ends_before, bool ends_after, Envelope& e,
                      float* out) {
  e.at.clear(), e.height.clear(), e.from.clear();
  const auto add = [&](int64_t x, int64_t h) {
    int64_t from = a;
    while (!e.at.empty()) {
      // The first whole position where the parabola at x is not above the last one.
      const int64_t p = e.at.back(), span = 2 * (x - p), rise = x * x - p * p + h - e.height.back();
      from = rise <= a * span ? a : (rise + span - 1) / span;  // positions are not negative
      if (from > e.from.back()) break;
      e.at.pop_back(), e.height.pop_back(), e.from.pop_back();
      from = a;
    }
    if (from < b) e.at.push_back(x), e.height.push_back(h), e.from.push_back(from);
  };
  if (ends_before) add(a - 1, 0);
  for (int64_t x = a; x < b; ++x)
    if (column[x] != kFar) add(x, int64_t{column[x]} * column[x]);
  if (ends_after) add(b, 0);
  size_t k = 0;
  for (int64_t x = a; x < b; ++x) {
    while (k + 1 < e.at.size() && e.from[k + 1] <= x) ++k;
    const int64_t step = x - e.at[k];
    out[x] = static_cast<float>(std::sqrt(static_cast<double>(step * step + e.height[k])));
  }
}

// Distance to the nearest pixel outside of the own object, over its median in the object; 0 in the background. Ids are
// 1..n, of any pixels. The outside of the image is no other object, unless the whole image is one.
void energy(array_in<int32_t, 2> labels, int32_t n, array_out<float, 2> result, int threads) {
  require_same_size(labels, 0, result, 0);
  nb::gil_scoped_release release;
  const int64_t height = labels.shape(0), width = labels.shape(1), size = height * width;
  if (size == 0) return;
  const int32_t* label = labels.data();
  float* out = result.data();
  std::vector<int64_t> start(static_cast<size_t>(n) + 2, 0);
  for (int64_t i = 0; i < size; ++i) {
    if (label[i] < 0 || label[i] > n) throw nb::value_error("an id is not between 0 and n");
    ++start[label[i] + 1];
  }
  const bool closed = label[0] > 0 && start[label[0] + 1] == size;
  {
    std::vector<int32_t> column(size);
    distances_in_columns(label, height, width, closed, column.data(), threads);
    parallel_for(height, 16, threads, [&](int64_t begin, int64_t end) {
      Envelope envelope;
      for (int64_t y = begin; y < end; ++y) {
        const int32_t* row = label + y * width;
        for (int64_t a = 0, b; a < width; a = b) {
          for (b = a + 1; b < width && row[b] == row[a];) ++b;
          if (row[a] == 0)
            std::fill(out + y * width + a, out + y * width + b, 0.0f);
          else
            distances_in_run(column.data() + y * width, a, b, a > 0 || closed, b < width || closed, envelope,
                             out + y * width);
        }
      }
    });
  }

  // The distances of object k are gathered in gathered[start[k] - start[1] ...].
  for (int32_t k = 0; k <= n; ++k) start[k + 1] += start[k];
  const int64_t background = start[1];
  std::vector<float> gathered(size - background), median(static_cast<size_t>(n) + 1, 1.0f);
  {
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t i = 0; i < size; ++i)
      if (label[i] > 0) gathered[next[label[i]]++ - background] = out[i];
  }
  parallel_for(n, 16, threads, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin + 1; k <= end; ++k) {
      float *first = gathered.data() + (start[k] - background), *last = gathered.data() + (start[k + 1] - background);
      if (first == last) continue;
      float* middle = first + (last - first) / 2;
      std::nth_element(first, middle, last);
      median[k] = (last - first) % 2 ? *middle : 0.5f * (*middle + *std::max_element(first, middle));
    }
  });
  parallel_for(size, 1 << 16, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      if (label[i] > 0) out[i] /= median[label[i]];
  });
}

// Number the 4-connected pieces of pixels without a marker whose landscape is at most `highest`, from `first` on, where
// they have over `most_dropped` pixels; writes into `markers` and returns how many there are.
int32_t add_seeds(array_in<float, 2> landscape, float highest, int64_t most_dropped, int32_t first,
                  array_out<int32_t, 2> markers) {
  require_same_size(landscape, 0, markers, 0);
  nb::gil_scoped_release release;
  const int64_t height = landscape.shape(0), width = landscape.shape(1), size = height * width;
  const float* low = landscape.data();
  int32_t *marker = markers.data(), next = first;
  std::vector<int64_t> piece, dropped;
  for (int64_t i = 0; i < size; ++i) {
    const auto visit = [&](int64_t at) {
      if (marker[at] == 0 && low[at] <= highest) marker[at] = next, piece.push_back(at);
    };
    piece.clear();
    visit(i);
    for (size_t k = 0; k < piece.size(); ++k) {
      const int64_t at = piece[k], x = at % width;
      if (at >= width) visit(at - width);
      if (at + width < size) visit(at + width);
      if (x > 0) visit(at - 1);
      if (x + 1 < width) visit(at + 1);
    }
    if (static_cast<int64_t>(piece.size()) > most_dropped)
      ++next;
    else if (!piece.empty()) {
      for (int64_t at : piece) marker[at] = -1;  // not looked at again
      dropped.insert(dropped.end(), piece.begin(), piece.end());
    }
  }
  for (int64_t at : dropped) marker[at] = 0;
  return next - first;
}

// Of ids 1..n: pixels, sum of the probability, sum of the squared difference of two energies.
void energy_sums(array_in<int32_t, 2> labels, array_in<float, 2> probability, array_in<float, 2> predicted,
                 array_in<float, 2> own, array_out<double, 2> sums) {
  require_same_size(labels, 0, probability, 0), require_same_size(labels, 0, predicted, 0);
  require_same_size(labels, 0, own, 0), require_length(sums, 1, 3);
  nb::gil_scoped_release release;
  const int64_t size = labels.shape(0) * labels.shape(1), n = sums.shape(0);
  std::fill_n(sums.data(), 3 * n, 0.0);
  for (int64_t i = 0; i < size; ++i) {
    const int32_t id = labels.data()[i];
    if (id <= 0 || id > n) continue;
    double* sum = sums.data() + 3 * (int64_t{id} - 1);
    const double difference = static_cast<double>(predicted.data()[i]) - own.data()[i];
    sum[0] += 1, sum[1] += probability.data()[i], sum[2] += difference * difference;
  }
}

}  // namespace
}  // namespace cellweave

void bind_energy(nanobind::module_& m) {
  using namespace nanobind::literals;
  m.def("energy", &cellweave::energy, "labels"_a.noconvert(), "n"_a, "result"_a.noconvert(), "threads"_a = 0,
        "Write into `result` (Y, X) float32 the distance to the border of each pixel's object over the object's median.");
  m.def("add_seeds", &cellweave::add_seeds, "landscape"_a.noconvert(), "highest"_a, "most_dropped"_a, "first"_a,
        "markers"_a.noconvert(),
        "Number pieces of unmarked pixels up to `highest`, with over `most_dropped` px, from `first` on; returns how many.");
  m.def("energy_sums", &cellweave::energy_sums, "labels"_a.noconvert(), "probability"_a.noconvert(),
        "predicted"_a.noconvert(), "own"_a.noconvert(), "sums"_a.noconvert(),
        "Write into `sums` (n, 3) float64 pixels, summed probability and summed squared error of ids 1..n.");
}
