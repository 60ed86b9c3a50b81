"""Real servers for the tests: Kafka, Cassandra, Neo4j, Redis, S3 and a server of Qdrant's wire."""
