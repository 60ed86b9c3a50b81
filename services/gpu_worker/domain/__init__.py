"""Types, rules and ports of embedding and training."""
