"""The graph in Neo4j, shared by several replicas of the service."""
