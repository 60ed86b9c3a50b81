"""Types, rules and ports of the gateway."""
