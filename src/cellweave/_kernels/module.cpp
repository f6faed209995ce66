// The hot loops of cellweave. Every function here has a NumPy twin among the tests that it must equal.
#include <nanobind/nanobind.h>

void bind_diffusion(nanobind::module_& m);
void bind_distance_flows(nanobind::module_& m);
void bind_energy(nanobind::module_& m);
void bind_fusion(nanobind::module_& m);
void bind_tracking(nanobind::module_& m);
void bind_objects(nanobind::module_& m);
void bind_overlap(nanobind::module_& m);
void bind_measure(nanobind::module_& m);
void bind_star_convex(nanobind::module_& m);
void bind_outlines(nanobind::module_& m);
void bind_peaks(nanobind::module_& m);
void bind_boxes(nanobind::module_& m);
void bind_views(nanobind::module_& m);
void bind_watershed(nanobind::module_& m);

NB_MODULE(_kernels, m) {
  m.doc() = "Hot loops of cellweave, compiled.";
  bind_diffusion(m);
  bind_distance_flows(m);
  bind_energy(m);
  bind_fusion(m);
  bind_tracking(m);
  bind_objects(m);
  bind_overlap(m);
  bind_measure(m);
  bind_star_convex(m);
  bind_outlines(m);
  bind_peaks(m);
  bind_boxes(m);
  bind_views(m);
  bind_watershed(m);
}
