"""Prometheus, Kubernetes, Neo4j and Qdrant, each behind its port."""
