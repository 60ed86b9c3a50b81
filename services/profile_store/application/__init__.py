"""The use cases of profile_store, one module for each gRPC service."""
