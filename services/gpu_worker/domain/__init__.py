"""Types, rules and ports of gpu_worker."""
