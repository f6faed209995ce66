// Splitting a loop over the cores of the machine, and the array types that kernels take.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

// Compile a hot function several times and pick the widest version that the machine can run.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__)
#define CELLWEAVE_WIDE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CELLWEAVE_WIDE
#endif

namespace cellweave {

namespace nb = nanobind;
template <typename T, int N>
using array_in = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <typename T, int N>
using array_out = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

// Arrays are bound with .noconvert(): nanobind would else fill a converted copy of an output and drop it.
template <typename A, typename B>
void require_same_size(const A& a, size_t a_axis, const B& b, size_t b_axis, size_t axes = 2) {
  for (size_t k = 0; k < axes; ++k)
    if (a.shape(a_axis + k) != b.shape(b_axis + k)) throw nb::value_error("the arrays of a kernel differ in shape");
}
template <typename A>
void require_length(const A& a, size_t axis, size_t length) {
  if (a.shape(axis) != length) throw nb::value_error("an array of a kernel has the wrong length");
}

// Cores this process may run on; `requested` > 0 overrides.
inline int thread_count(int requested) {
  if (requested > 0) return requested;
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

// Calls body(begin, end) on consecutive pieces of 0..n of `grain` items, from several threads. The body must
// write only what belongs to its piece: then the result does not depend on the number of threads. An exception
// in any thread stops the loop and is thrown again here.
template <typename Body>
void parallel_for(int64_t n, int64_t grain, int threads, const Body& body) {
  grain = std::max<int64_t>(1, grain);
  const int64_t pieces = (n + grain - 1) / grain;
  threads = static_cast<int>(std::min<int64_t>(thread_count(threads), pieces));
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_lock;
  auto work = [&] {
    try {
      for (int64_t piece; (piece = next.fetch_add(1)) < pieces;)
        body(piece * grain, std::min(n, (piece + 1) * grain));
    } catch (...) {
      std::lock_guard<std::mutex> hold(failure_lock);
      failure = std::current_exception();
      next = pieces;
    }
  };
  std::vector<std::thread> pool;
  for (int t = 1; t < threads; ++t) pool.emplace_back(work);
  work();
  for (auto& thread : pool) thread.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace cellweave
