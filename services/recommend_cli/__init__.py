"""The command `recommend`: brings the embedded stack up, loads data, trains, evaluates and benchmarks."""
