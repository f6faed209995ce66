#include "parallel.hpp"

namespace cellweave {}

void bind_diffusion(nanobind::module_&) {}
