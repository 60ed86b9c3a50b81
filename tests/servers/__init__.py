"""Real servers for the tests: Kafka, Cassandra, Neo4j, Redis and S3, started without containers."""
