#include "parallel.hpp"

namespace cellweave {}

void bind_overlap(nanobind::module_&) {}
