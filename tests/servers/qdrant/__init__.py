"""A server that speaks as much of Qdrant's gRPC API as is used here, over qdrant-edge; for tests."""
