"""One module per benchmark, or per pair of benchmarks with the same rule."""
