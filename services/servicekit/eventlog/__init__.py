"""The event log: a port, its adapters and the consumer loop."""
