// How many pixels each true object shares with each predicted one: a sparse contingency table.
#include "parallel.hpp"

#include <nanobind/stl/tuple.h>

#include <tuple>
#include <utility>

namespace cellweave {
namespace {

constexpr int64_t rows_per_piece = 64;  // fixed, so that the pieces do not depend on the number of threads

// A pair of ids in one number, true id first, so that sorting by it sorts by (true id, predicted id).
inline uint64_t pair_key(int32_t truth, int32_t predicted) {
  return static_cast<uint64_t>(static_cast<uint32_t>(truth)) << 32 | static_cast<uint32_t>(predicted);
}

using Counts = std::vector<std::pair<uint64_t, int64_t>>;

// Open addressing hash table from pair to count. A count of 0 marks a free slot.
class CountTable {
 public:
  CountTable() : slots_(1024) {}

  void add(uint64_t key, int64_t count) {
    auto& slot = find(key);
    if (slot.second == 0) {
      if (2 * ++used_ > slots_.size()) {
        grow();
        return add_new(key, count);
      }
      slot.first = key;
    }
    slot.second += count;
  }

  Counts entries() const {
    Counts found;
    found.reserve(used_);
    for (const auto& slot : slots_)
      if (slot.second) found.push_back(slot);
    return found;
  }

 private:
  std::pair<uint64_t, int64_t>& find(uint64_t key) {
    const size_t mask = slots_.size() - 1;
    size_t at = static_cast<size_t>((key * 0x9E3779B97F4A7C15ull) >> 32) & mask;
    while (slots_[at].second != 0 && slots_[at].first != key) at = (at + 1) & mask;
    return slots_[at];
  }

  void add_new(uint64_t key, int64_t count) { find(key) = {key, count}; }

  void grow() {
    Counts old(2 * slots_.size());
    old.swap(slots_);
    for (const auto& slot : old)
      if (slot.second) add_new(slot.first, slot.second);
  }

  Counts slots_;
  size_t used_ = 0;
};

Counts count_pixels(const int32_t* truth, const int32_t* predicted, int64_t n) {
  CountTable table;
  for (int64_t start = 0; start < n;) {
    const int32_t t = truth[start], p = predicted[start];
    int64_t end = start + 1;
    while (end < n && truth[end] == t && predicted[end] == p) ++end;
    table.add(pair_key(t, p), end - start);
    start = end;
  }
  return table.entries();
}

Counts count_overlaps(const int32_t* truth, const int32_t* predicted, int64_t height, int64_t width, int threads) {
  const int64_t pieces = (height + rows_per_piece - 1) / rows_per_piece;
  std::vector<Counts> of_piece(static_cast<size_t>(pieces));
  parallel_for(height, rows_per_piece, threads, [&](int64_t begin, int64_t end) {
    of_piece[static_cast<size_t>(begin / rows_per_piece)] =
        count_pixels(truth + begin * width, predicted + begin * width, (end - begin) * width);
  });
  Counts all;
  for (auto& piece : of_piece) {
    all.insert(all.end(), piece.begin(), piece.end());
    Counts().swap(piece);
  }
  std::sort(all.begin(), all.end());
  size_t last = 0;
  for (size_t i = 1; i < all.size(); ++i) {
    if (all[i].first == all[last].first)
      all[last].second += all[i].second;
    else
      all[++last] = all[i];
  }
  if (!all.empty()) all.resize(last + 1);
  return all;
}

template <typename T, typename Value>
nb::ndarray<nb::numpy, T, nb::ndim<1>> column(const Counts& counts, const Value& value) {
  auto* data = new T[counts.size()];
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  for (size_t i = 0; i < counts.size(); ++i) data[i] = value(counts[i]);
  return nb::ndarray<nb::numpy, T, nb::ndim<1>>(data, {counts.size()}, owner);
}

auto overlap_counts(array_in<int32_t, 2> truth, array_in<int32_t, 2> predicted, int threads) {
  if (truth.shape(0) != predicted.shape(0) || truth.shape(1) != predicted.shape(1))
    throw nb::value_error("overlap_counts: the two label images differ in shape");
  Counts counts;
  {
    nb::gil_scoped_release release;
    counts = count_overlaps(truth.data(), predicted.data(), static_cast<int64_t>(truth.shape(0)),
                            static_cast<int64_t>(truth.shape(1)), threads);
  }
  using Entry = Counts::value_type;
  return std::make_tuple(
      column<int32_t>(counts, [](const Entry& e) { return static_cast<int32_t>(e.first >> 32); }),
      column<int32_t>(counts, [](const Entry& e) { return static_cast<int32_t>(e.first & 0xFFFFFFFFu); }),
      column<int64_t>(counts, [](const Entry& e) { return e.second; }));
}

}  // namespace
}  // namespace cellweave

void bind_overlap(nanobind::module_& m) {
  namespace nb = nanobind;
  m.def("overlap_counts", &cellweave::overlap_counts, nb::arg("truth"), nb::arg("predicted"), nb::arg("threads") = 0,
        "Pixels that each pair of ids shares in two (Y, X) int32 label images: (truth ids, predicted ids,\n"
        "counts), sorted by the two ids. Only pairs that occur are listed; 0, the background, is an id.");
}
