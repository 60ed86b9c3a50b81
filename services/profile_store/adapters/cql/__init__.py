"""The store on Scylla, Cassandra or whatever else speaks CQL; several replicas may run on one keyspace."""
