"""The RPCs, one module for each gRPC service."""
