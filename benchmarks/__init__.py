"""Benchmarks, which build streams of experiences: one file each, named like the benchmark, with `Config` and `build`."""
