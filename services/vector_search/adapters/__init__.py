"""What vector_search touches outside: qdrant-edge, the model folder, protobuf files, child processes."""
