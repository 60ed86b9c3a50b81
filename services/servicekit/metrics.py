"""The catalogue of metrics: every name that any part of the engine exports, each with what it tells."""

from types import TracebackType
from typing import Self

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, start_http_server

from servicekit.errors import FailedPreconditionError

# How long one call takes between processes on one machine or in one cluster.
RPC_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
# How long an answer takes; the promise is 0.1.
ANSWER_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.5, 1.0)
# How many elements travel in one call; powers of two up to the largest batch.
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

# --- every service -----------------------------------------------------------------------------------------------

# Calls answered, by status code; errors and rates come from here.
GRPC_SERVER_REQUESTS = Counter("grpc_server_requests_total", "Calls answered.", ["service", "method", "code"])
# Time from a call's arrival in Python to its answer.
GRPC_SERVER_LATENCY = Histogram(
    "grpc_server_latency_seconds", "Time to answer a call.", ["service", "method"], buckets=RPC_BUCKETS_S
)
# Calls made to another service, by the outcome the caller saw; retries count one by one.
GRPC_CLIENT_REQUESTS = Counter("grpc_client_requests_total", "Calls made.", ["target", "code"])
# Time of one attempt as its caller saw it.
GRPC_CLIENT_LATENCY = Histogram(
    "grpc_client_latency_seconds", "Time of a call made.", ["target"], buckets=RPC_BUCKETS_S
)
# Calls tried again because the other side was unavailable.
GRPC_CLIENT_RETRIES = Counter("grpc_client_retries_total", "Calls tried again.", ["target"])
# 0 closed, 1 half open, 2 open: above 0 the other side failed too often just now.
CIRCUIT_STATE = Gauge("circuit_breaker_state", "0 closed, 1 half open, 2 open.", ["name"])
# How often a circuit has opened.
CIRCUIT_OPENED = Counter("circuit_breaker_opened_total", "How often the circuit opened.", ["name"])
# Elements that travelled together in one call.
BATCH_SIZE = Histogram("batch_size", "Elements sent in one call.", ["batcher"], buckets=BATCH_BUCKETS)
# Elements that were not sent: queue_full, expired, cancelled.
BATCH_DROPPED = Counter("batch_dropped_total", "Elements not sent.", ["batcher", "reason"])
# Write functions committed together by the SQLite writer.
SQLITE_GROUP_SIZE = Histogram("sqlite_group_size", "Writes committed together.", ["database"], buckets=BATCH_BUCKETS)
# Time from taking a group of writes to its commit.
SQLITE_COMMIT_LATENCY = Histogram(
    "sqlite_commit_seconds", "Time to run and commit a group of writes.", ["database"], buckets=RPC_BUCKETS_S
)
# Records that a consumer has not read yet. The name is that of the deployments, whatever log is behind it.
CONSUMER_LAG = Gauge("kafka_consumer_lag", "Records not read yet.", ["topic"])
# The same for each partition that this process reads; who loses a partition no longer tells of it.
CONSUMER_PARTITION_LAG = Gauge("kafka_consumer_partition_lag", "Records not read yet.", ["topic", "partition"])
# Records that a consumer applied.
CONSUMED = Counter("consumer_records_total", "Records applied.", ["topic"])
# How long the newest record that was applied had been in the log, 0 while there is nothing to apply; for the heartbeats
# of a region that is mirrored here, how old the newest is, which grows while none comes.
REPLICATION_LAG = Gauge("replication_lag_seconds", "Age of the newest record when it was applied.", ["topic"])
# Records put aside because they could not be decoded or applied.
DEAD_LETTERS = Counter("consumer_dead_letters_total", "Records put aside.", ["topic"])
# 1 from when a consumer stands still, because too many records failed in a row, until its process is started again.
CONSUMER_STOPPED = Gauge("consumer_stopped", "1 when the consumer stands still.", ["group", "topic"])

# --- the gateway -------------------------------------------------------------------------------------------------

# Lists answered, by variant and by the strategy that filled them.
RECOMMENDATIONS = Counter("recommendations_total", "Lists answered.", ["variant", "strategy"])
# Time to make a list.
RECOMMENDATION_LATENCY = Histogram(
    "recommendation_latency_seconds", "Time to make a list.", ["variant"], buckets=ANSWER_BUCKETS_S
)
# HTTP requests, by route template and status.
HTTP_REQUESTS = Counter("http_requests_total", "HTTP requests answered.", ["method", "route", "status"])
# Time to answer an HTTP request.
HTTP_LATENCY = Histogram(
    "http_request_duration_seconds", "Time to answer an HTTP request.", ["method", "route"], buckets=ANSWER_BUCKETS_S
)
# Time spent in one stage of the pipeline.
STAGE_LATENCY = Histogram("stage_latency_seconds", "Time in a pipeline stage.", ["stage"], buckets=ANSWER_BUCKETS_S)
# Candidates that a source contributed.
CANDIDATES = Counter("candidates_total", "Candidates contributed.", ["source"])
# Answers given without a source, and why.
DEGRADED = Counter("degraded_total", "Answers given without a source.", ["source", "reason"])
# Look-ups answered from a cache.
CACHE_HITS = Counter("cache_hits_total", "Look-ups answered from the cache.", ["cache", "tier"])
# Look-ups that a cache could not answer.
CACHE_MISSES = Counter("cache_misses_total", "Look-ups that the cache could not answer.", ["cache", "tier"])

# --- models and machines -----------------------------------------------------------------------------------------

# Time of one retrieval inside vector_search.
VECTOR_SEARCH_LATENCY = Histogram("vector_search_latency_seconds", "Time of one retrieval.", buckets=ANSWER_BUCKETS_S)
# Age of the model in use; grows until the next training is activated.
MODEL_AGE = Gauge("model_age_seconds", "Age of the model in use.")
# How busy each GPU is.
GPU_UTILIZATION = Gauge("gpu_utilization_percent", "How busy the GPU is.", ["gpu_id"])
# What the machine of each process costs, or its share of one; see costs.py. A rule adds up the total of a month.
COMPUTE_COST = Gauge("compute_cost_usd_per_hour", "What the machines cost.", ["region", "service"])
# What the disks and buckets of a region cost.
STORAGE_COST = Gauge("storage_cost_usd_per_month", "What storage costs.", ["region", "storage_type"])


class MetricsServer:
    """Serves `/metrics` from a daemon thread until closed; also a context manager."""

    def __init__(self, port: int, host: str) -> None:
        try:
            self._serving = start_http_server(port, host, registry=REGISTRY) if port else None
        except OSError as error:
            raise FailedPreconditionError(
                f"cannot serve metrics on {host}:{port} ({error.strerror}); choose another port, 0 for none"
            ) from error

    def close(self) -> None:
        """Stop serving and free the port."""
        if self._serving is not None:
            server, thread = self._serving
            server.shutdown()
            server.server_close()
            thread.join()
            self._serving = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve_metrics(port: int, host: str = "127.0.0.1") -> MetricsServer:
    """Begin to serve the metrics of this process; port 0 serves none.

    Raises:
        FailedPreconditionError: The port is taken.
    """
    return MetricsServer(port, host)
