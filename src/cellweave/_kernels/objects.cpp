#include "parallel.hpp"

namespace cellweave {}

void bind_objects(nanobind::module_&) {}
