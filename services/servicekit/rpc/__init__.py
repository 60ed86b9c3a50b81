"""gRPC, both sides: one server bootstrap, one kind of channel."""
