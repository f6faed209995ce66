// Marker-controlled watershed by flooding (Beucher & Meyer 1993; Meyer 1994), for 4-neighbours, in parallel.
//
// The flood order of a priority queue is not simulated. The pass height of a pixel, the least height to which water
// must rise to get there from any marker, is a property of the landscape alone (the reconstruction by erosion), and so
// is, on a plateau of equal pass heights, the number of steps from where water comes onto it. Each pixel then takes the
// label of its first neighbour by these two. Nothing depends on the order of work, so neither on the threads:
//   1. every pixel points to its lowest neighbour: basins, one for each regional minimum and each marker's pixel;
//   2. basins without markers spill over their lowest passes, in Boruvka's rounds: the pass height of each of them;
//   3. every pixel points to its neighbour of the least pass height, on plateaus in breadth-first order;
//   4. the pointers are followed to the markers.
#include <nanobind/stl/optional.h>

#include <cstring>
#include <limits>
#include <memory>
#include <optional>

#include "parallel.hpp"

namespace cellweave {
namespace {

using Height = uint32_t;  // in the order of the floats that they stand for
constexpr Height kDry = 0xFFFFFFFFu;  // outside the mask, and what no water reaches
constexpr uint64_t kNoEdge = ~uint64_t{0};

// Shared between threads without order: whatever is read leads to the same end.
template <typename T>
struct Loose {
  std::atomic<T> value{0};
  static_assert(sizeof(std::atomic<T>) == sizeof(T) && std::atomic<T>::is_always_lock_free);
  operator T() const { return value.load(std::memory_order_relaxed); }
  void operator=(T next) { value.store(next, std::memory_order_relaxed); }
};
using Link = Loose<int32_t>;  // of a pixel: >= 0 the pixel it points to, < 0 the bits of an id, inverted

void lower(Loose<uint64_t>& least, uint64_t candidate) {
  uint64_t seen = least;
  while (candidate < seen && !least.value.compare_exchange_weak(seen, candidate, std::memory_order_relaxed)) {
  }
}

Height height_of(float value) {
  value = value == value ? value + 0.0f : std::numeric_limits<float>::infinity();  // one zero; NaN as infinity
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits ^ (bits >> 31 ? 0xFFFFFFFFu : 0x80000000u);
}

struct Image {
  int64_t rows, columns, grain;
  int threads;
  Height* heights;
  const int32_t* markers;
  int64_t size() const { return rows * columns; }
  // Calls body(q) for each 4-neighbour q of p, in the order of their indices, until it gives true.
  template <typename Body>
  bool any_neighbour(int64_t p, const Body& body) const {
    const int64_t column = static_cast<uint32_t>(p) % static_cast<uint32_t>(columns);
    return (p >= columns && body(p - columns)) || (column > 0 && body(p - 1)) ||
           (column + 1 < columns && body(p + 1)) || (p + columns < size() && body(p + columns));
  }
};

// --- rows: pointers to the lowest neighbour; of equal ones the first of up, left, right, down ---------------------

// Where p's basin goes on: also to an equal neighbour that comes before p. So there are no circles.
inline int32_t descent(Height up, Height left, Height self, Height right, Height down, int32_t columns) {
  Height least = up;
  int32_t to = -columns;
  to = left < least ? -1 : to, least = std::min(least, left);
  to = self < least ? 0 : to, least = std::min(least, self);
  to = right < least ? 1 : to, least = std::min(least, right);
  to = down < least ? columns : to;
  return self == kDry ? 0 : to;
}

// Where water comes from; 0 where no neighbour is lower.
inline int32_t source(Height up, Height left, Height self, Height right, Height down, int32_t columns) {
  Height least = up;
  int32_t to = -columns;
  to = left < least ? -1 : to, least = std::min(least, left);
  to = right < least ? 1 : to, least = std::min(least, right);
  to = down < least ? columns : to, least = std::min(least, down);
  return least < self ? to : 0;
}

CELLWEAVE_WIDE static void descent_row(const Height* up, const Height* row, const Height* down, int32_t columns,
                                       int32_t* steps) {
  for (int32_t x = 1; x < columns - 1; ++x)
    steps[x] = descent(up[x], row[x - 1], row[x], row[x + 1], down[x], columns);
}

CELLWEAVE_WIDE static void source_row(const Height* up, const Height* row, const Height* down, int32_t columns,
                                      int32_t* steps) {
  for (int32_t x = 1; x < columns - 1; ++x)
    steps[x] = source(up[x], row[x - 1], row[x], row[x + 1], down[x], columns);
}

using Row = void (*)(const Height*, const Height*, const Height*, int32_t, int32_t*);
using Step = int32_t (*)(Height, Height, Height, Height, Height, int32_t);

// Calls body(piece, p, step) for every pixel p, row by row, from several threads; a piece belongs to one of them.
template <typename Body>
void for_each_step(const Image& image, Row whole, Step one, const Body& body) {
  const int32_t columns = static_cast<int32_t>(image.columns);
  const std::vector<Height> wall(image.columns, kDry);
  parallel_for(image.rows, image.grain, image.threads, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> steps(image.columns);
    for (int64_t y = begin; y < end; ++y) {
      const Height* row = image.heights + y * columns;
      const Height* up = y > 0 ? row - columns : wall.data();
      const Height* down = y + 1 < image.rows ? row + columns : wall.data();
      whole(up, row, down, columns, steps.data());
      for (const int32_t x : {0, columns - 1})
        steps[x] = one(up[x], x > 0 ? row[x - 1] : kDry, row[x], x + 1 < columns ? row[x + 1] : kDry, down[x], columns);
      for (int32_t x = 0; x < columns; ++x) body(begin / image.grain, y * columns + x, steps[x]);
    }
  });
}

// Every pointer is followed to the id that it leads to; then that stands in its place.
void resolve(const Image& image, Link* links) {
  parallel_for(image.size(), image.grain * image.columns, image.threads, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      int32_t found = links[p];
      if (found < 0) continue;
      for (int32_t next; (next = links[found]) >= 0;) found = next;
      found = links[found];
      for (int32_t q = static_cast<int32_t>(p), next; (next = links[q]) >= 0; q = next) links[q] = found;
    }
  });
}

// --- basins and the passes between them ---------------------------------------------------------------------------

// Writes into `links` the inverted number of each pixel's basin: 0 for what runs down to a marker and outside the mask,
// else from 1. Returns the highest number.
int32_t number_basins(const Image& image, Link* links) {
  std::vector<std::vector<int32_t>> minima((image.rows + image.grain - 1) / image.grain);
  for_each_step(image, descent_row, descent, [&](int64_t piece, int64_t p, int32_t step) {
    if (image.markers[p] || image.heights[p] == kDry)
      links[p] = ~0;
    else if (links[p] = static_cast<int32_t>(p + step); step == 0)
      minima[piece].push_back(static_cast<int32_t>(p));
  });
  int32_t n = 0;
  for (const auto& some : minima)
    for (const int32_t p : some) links[p] = ~++n;
  resolve(image, links);
  return n;
}

// Raises every pixel to its pass height; kDry where no water comes.
void raise(const Image& image, const Link* basins, int32_t n) {
  const int64_t n_pieces = (image.rows + image.grain - 1) / image.grain;
  std::vector<int32_t> lake(n + 1);       // the lake that a basin is part of by now; 0 is joined to a marker
  std::vector<Link> joined(n + 1);        // the lake that a lake joins
  std::vector<Loose<uint64_t>> pass(n + 1);  // a lake's lowest pass: height, then the edge (for a total order)
  std::vector<Height> level(n + 1, 0);    // the pass height of a basin's bottom
  for (int32_t b = 0; b <= n; ++b) lake[b] = b;

  // An edge is a pixel and whether its neighbour lies below it, else to the right.
  const auto ends = [&](int64_t edge) {
    return std::pair<int64_t, int64_t>(edge >> 1, (edge >> 1) + (edge & 1 ? image.columns : 1));
  };
  const auto offer = [&](int64_t edge) {  // to the lakes on both sides; false when it divides none
    const auto [p, q] = ends(edge);
    const int32_t a = lake[~basins[p]], b = lake[~basins[q]];
    const Height height = std::max(image.heights[p], image.heights[q]);
    if (a == b || height == kDry) return false;
    const uint64_t candidate = (uint64_t{height} << 32) | static_cast<uint64_t>(edge);
    if (a) lower(pass[a], candidate);
    if (b) lower(pass[b], candidate);
    return true;
  };
  const auto for_each_edge = [&](int64_t piece, const auto& body) {
    for (int64_t y = piece * image.grain, end = std::min(image.rows, y + image.grain); y < end; ++y)
      for (int64_t p = y * image.columns, last = p + image.columns - 1; p <= last; ++p) {
        const int32_t own = basins[p];
        if (p < last && basins[p + 1] != own) body(2 * p);
        if (y + 1 < image.rows && basins[p + image.columns] != own) body(2 * p + 1);
      }
  };

  std::vector<std::vector<uint32_t>> edges(n_pieces);  // kept from the second round on, when they are fewer
  for (int round = 0;; ++round) {
    parallel_for(n + 1, 65536, image.threads, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) pass[b] = kNoEdge;
    });
    parallel_for(n_pieces, 1, image.threads, [&](int64_t piece, int64_t) {
      auto& kept = edges[piece];
      if (round == 0)
        for_each_edge(piece, offer);
      else if (round == 1)
        for_each_edge(piece, [&](int64_t edge) { if (offer(edge)) kept.push_back(static_cast<uint32_t>(edge)); });
      else
        kept.erase(std::remove_if(kept.begin(), kept.end(), [&](uint32_t edge) { return !offer(edge); }), kept.end());
    });
    parallel_for(n + 1, 65536, image.threads, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        if (b == 0 || lake[b] != b || pass[b] == kNoEdge) {
          joined[b] = 0;
          continue;
        }
        const auto [p, q] = ends(static_cast<uint32_t>(pass[b]));
        const int32_t one = lake[~basins[p]], other = one == b ? lake[~basins[q]] : one;
        // Two lakes that share their lowest pass would join each other: the first stays.
        joined[b] = static_cast<int32_t>(pass[other] == pass[b] && b < other ? b : other);
      }
    });
    std::atomic<bool> done{true};
    parallel_for(n + 1, 65536, image.threads, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        if (lake[b] == 0) continue;
        // No water leaves a lake below its lowest pass; over all rounds, the highest of them is what it must rise to.
        level[b] = std::max(level[b], static_cast<Height>(pass[lake[b]] >> 32));
        int32_t root = lake[b];
        for (int32_t next; (next = joined[root]) != root;) root = next;
        for (int32_t c = lake[b], next; (next = joined[c]) != root && next != c; c = next) joined[c] = root;
        lake[b] = root;
        if (root) done = false;
      }
    });
    if (done) break;
  }
  parallel_for(image.size(), image.grain * image.columns, image.threads, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) image.heights[p] = std::max(image.heights[p], level[~basins[p]]);
  });
}

// --- from pass heights to labels ----------------------------------------------------------------------------------

// A pixel waits while no lower neighbour nor marker floods it; then it is an odd or even number of steps from where water
// comes onto its plateau. Of two neighbours that have waited, neither was lower: they lie on one plateau.
enum Wave : uint8_t { kWaiting, kOdd, kEven, kNeverWaited };

// Points every pixel that waits to a neighbour on its plateau, breadth first, on all plateaus at once.
void spread(const Image& image, Link* links, Loose<uint8_t>* waves) {
  const auto first_of = [&](int64_t p, uint8_t wave) {  // the first neighbour of p in that wave and at that height
    int32_t found = -1;
    image.any_neighbour(p, [&](int64_t q) {
      if (waves[q] != wave || (wave == kNeverWaited && image.heights[q] != image.heights[p])) return false;
      found = static_cast<int32_t>(q);
      return true;
    });
    return found;
  };
  constexpr int64_t kGrain = 8192;
  std::vector<std::vector<int32_t>> found((image.size() + kGrain - 1) / kGrain);
  std::vector<int32_t> front;
  const auto collect = [&](int64_t pieces) {
    front.clear();
    for (int64_t piece = 0; piece < pieces; ++piece) {
      front.insert(front.end(), found[piece].begin(), found[piece].end());
      found[piece].clear();
    }
  };
  parallel_for(image.size(), kGrain, image.threads, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      if (waves[p] == kWaiting)
        if (const int32_t q = first_of(p, kNeverWaited); q >= 0) {
          links[p] = q;
          waves[p] = kOdd;
          found[begin / kGrain].push_back(static_cast<int32_t>(p));
        }
  });
  collect(static_cast<int64_t>(found.size()));
  for (uint8_t wave = kOdd; !front.empty(); wave = wave == kOdd ? kEven : kOdd) {
    const uint8_t next = wave == kOdd ? kEven : kOdd;
    const int64_t size = static_cast<int64_t>(front.size()), pieces = (size + kGrain - 1) / kGrain;
    found.resize(std::max(found.size(), static_cast<size_t>(pieces)));
    parallel_for(size, kGrain, image.threads, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const int32_t p = front[k];
        image.any_neighbour(p, [&](int64_t q) {
          if (waves[q] == kWaiting) {
            waves[q] = next;  // two threads may both come here: they write the same, and the pixel is listed twice
            links[q] = first_of(q, wave);
            found[begin / kGrain].push_back(static_cast<int32_t>(q));
          }
          return false;
        });
      }
    });
    collect(pieces);
  }
}

void watershed(array_in<float, 2> landscape, array_in<int32_t, 2> markers, std::optional<array_in<bool, 2>> mask,
               array_out<int32_t, 2> labels, int threads) {
  require_same_size(landscape, 0, markers, 0), require_same_size(landscape, 0, labels, 0);
  if (mask) require_same_size(landscape, 0, *mask, 0);
  const float* values = landscape.data();
  const bool* inside = mask ? mask->data() : nullptr;
  Link* links = reinterpret_cast<Link*>(labels.data());
  nb::gil_scoped_release release;
  if (landscape.size() == 0) return;
  std::unique_ptr<Height[]> heights(new Height[landscape.size()]);
  Image image{static_cast<int64_t>(landscape.shape(0)), static_cast<int64_t>(landscape.shape(1)), 1,
              thread_count(threads), heights.get(), markers.data()};
  image.grain = std::max<int64_t>(1, 65536 / image.columns);
  const int64_t grain = image.grain * image.columns;
  parallel_for(image.size(), grain, image.threads, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) heights[p] = !inside || inside[p] ? height_of(values[p]) : kDry;
  });

  if (const int32_t n = number_basins(image, links)) raise(image, links, n);

  std::unique_ptr<Loose<uint8_t>[]> waves(new Loose<uint8_t>[image.size()]);
  std::atomic<bool> plateaus{false};
  for_each_step(image, source_row, source, [&](int64_t, int64_t p, int32_t step) {
    const bool ends = heights[p] == kDry || image.markers[p];
    links[p] = heights[p] == kDry ? ~0 : image.markers[p] ? ~image.markers[p] : static_cast<int32_t>(p + step);
    waves[p] = static_cast<uint8_t>(ends || step ? kNeverWaited : kWaiting);
    if (!ends && !step && !plateaus) plateaus = true;
  });
  if (plateaus) spread(image, links, waves.get());
  resolve(image, links);
  parallel_for(image.size(), grain, image.threads, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) links[p] = ~links[p];
  });
}

}  // namespace
}  // namespace cellweave

void bind_watershed(nanobind::module_& m) {
  using namespace nanobind::literals;
  m.def("watershed", &cellweave::watershed, "landscape"_a.noconvert(), "markers"_a.noconvert(),
        nanobind::arg("mask").noconvert().none(), "labels"_a.noconvert(), "threads"_a = 0,
        "Flood `landscape` (Y, X) float32 from `markers` (Y, X) int32 within `mask` (Y, X) bool or None; the marker's id\n"
        "of each pixel is written into `labels` (Y, X) int32, 0 where no water comes.");
}
