"""Synthetic microscopes with exact truth: shapes, optics, noise, time and depth."""
