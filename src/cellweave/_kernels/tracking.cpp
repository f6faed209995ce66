#include "parallel.hpp"

namespace cellweave {}

void bind_tracking(nanobind::module_&) {}
