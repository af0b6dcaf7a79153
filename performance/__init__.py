"""Measurements of speed and memory: `make bench`. Nothing here asserts a time."""
