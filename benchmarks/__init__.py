"""Benchmarks: ours, a peer and the floor in one run, as CPU seconds and ratios. `make bench` runs all of them."""
