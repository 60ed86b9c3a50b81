"""The REST edge: the only place that knows HTTP."""
