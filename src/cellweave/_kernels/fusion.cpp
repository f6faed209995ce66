// Which combinations of ids occur at the pixels of several label images, and where: fusion works on the combinations.
#include "parallel.hpp"

#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>

namespace cellweave {
namespace {

constexpr int64_t pixels_per_piece = 1 << 16;  // fixed, so that the pieces do not depend on the number of threads

// Open addressing hash table from a tuple of ids to its number, in the order in which the tuples came.
class TupleTable {
 public:
  explicit TupleTable(size_t width) : width_(width), slots_(256, -1) {}

  int32_t number(const int32_t* ids) {
    if (2 * (counts_.size() + 1) > slots_.size()) grow();
    int32_t& slot = find(ids);
    if (slot < 0) {
      slot = static_cast<int32_t>(counts_.size());
      counts_.push_back(0);
      ids_.insert(ids_.end(), ids, ids + width_);
    }
    return slot;
  }

  void add(int32_t number, int64_t pixels) { counts_[static_cast<size_t>(number)] += pixels; }
  const int32_t* ids(size_t number) const { return ids_.data() + number * width_; }
  const std::vector<int32_t>& all_ids() const { return ids_; }
  const std::vector<int64_t>& counts() const { return counts_; }

 private:
  int32_t& find(const int32_t* ids) {
    uint64_t hash = 0;
    for (size_t k = 0; k < width_; ++k) {
      hash = (hash ^ static_cast<uint32_t>(ids[k])) * 0x9E3779B97F4A7C15ull;
      hash ^= hash >> 29;
    }
    const size_t mask = slots_.size() - 1;
    size_t at = static_cast<size_t>(hash >> 8) & mask;
    while (slots_[at] >= 0 && !std::equal(ids, ids + width_, this->ids(static_cast<size_t>(slots_[at]))))
      at = (at + 1) & mask;
    return slots_[at];
  }

  void grow() {
    std::vector<int32_t>(2 * slots_.size(), -1).swap(slots_);
    for (size_t n = 0; n < counts_.size(); ++n) find(ids(n)) = static_cast<int32_t>(n);
  }

  size_t width_;
  std::vector<int32_t> slots_;
  std::vector<int32_t> ids_;
  std::vector<int64_t> counts_;
};

inline bool same(const std::vector<const int32_t*>& images, const std::vector<int32_t>& ids, int64_t pixel) {
  for (size_t k = 0; k < ids.size(); ++k)
    if (images[k][pixel] != ids[k]) return false;
  return true;
}

// Numbers the tuples at the pixels begin..end in a table of their own, and writes the numbers to `index`.
TupleTable number_pixels(const std::vector<const int32_t*>& images, int64_t begin, int64_t end, int32_t* index) {
  const size_t width = images.size();
  TupleTable table(width);
  std::vector<int32_t> ids(width);
  for (int64_t start = begin; start < end;) {
    for (size_t k = 0; k < width; ++k) ids[k] = images[k][start];
    int64_t stop = start + 1;
    while (stop < end && same(images, ids, stop)) ++stop;
    const int32_t number = table.number(ids.data());
    table.add(number, stop - start);
    std::fill(index + start, index + stop, number);
    start = stop;
  }
  return table;
}

template <typename T>
nb::ndarray<nb::numpy, T> as_array(const std::vector<T>& values, std::initializer_list<size_t> shape) {
  auto* data = new T[values.size()];
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  std::copy(values.begin(), values.end(), data);
  return nb::ndarray<nb::numpy, T>(data, shape, owner);
}

auto label_patterns(const std::vector<array_in<int32_t, 2>>& labels, array_out<int32_t, 2> index, int threads) {
  std::vector<const int32_t*> images;
  for (const auto& image : labels) {
    require_same_size(image, 0, index, 0);
    images.push_back(image.data());
  }
  const int64_t n = static_cast<int64_t>(index.shape(0) * index.shape(1));
  const size_t width = images.size();
  TupleTable all(width);
  {
    nb::gil_scoped_release release;
    const int64_t pieces = (n + pixels_per_piece - 1) / pixels_per_piece;
    std::vector<TupleTable> of_piece(static_cast<size_t>(pieces), TupleTable(width));
    parallel_for(n, pixels_per_piece, threads, [&](int64_t begin, int64_t end) {
      of_piece[static_cast<size_t>(begin / pixels_per_piece)] = number_pixels(images, begin, end, index.data());
    });
    std::vector<std::vector<int32_t>> renumbered(of_piece.size());
    for (size_t piece = 0; piece < of_piece.size(); ++piece) {
      const auto& counts = of_piece[piece].counts();
      for (size_t own = 0; own < counts.size(); ++own) {
        const int32_t number = all.number(of_piece[piece].ids(own));
        all.add(number, counts[own]);
        renumbered[piece].push_back(number);
      }
    }
    parallel_for(n, pixels_per_piece, threads, [&](int64_t begin, int64_t end) {
      const auto& number = renumbered[static_cast<size_t>(begin / pixels_per_piece)];
      for (int32_t* i = index.data() + begin; i < index.data() + end; ++i) *i = number[static_cast<size_t>(*i)];
    });
  }
  return std::make_tuple(as_array(all.all_ids(), {all.counts().size(), width}),
                         as_array(all.counts(), {all.counts().size()}));
}

}  // namespace
}  // namespace cellweave

void bind_fusion(nanobind::module_& m) {
  namespace nb = nanobind;
  m.def("label_patterns", &cellweave::label_patterns, nb::arg("labels"), nb::arg("index").noconvert(),
        nb::arg("threads") = 0,
        "Combinations of ids at the pixels of K (Y, X) int32 label images, in the order in which a scan by rows\n"
        "meets them: (ids (P, K) int32, pixels of each (P,) int64). Writes the number of each pixel's combination\n"
        "to index (Y, X) int32.");
}
