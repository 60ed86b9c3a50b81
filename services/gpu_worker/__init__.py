"""gpu_worker: embeds what is new, trains what is learned, publishes model versions."""
