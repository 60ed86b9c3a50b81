"""How the command talks to the services: REST to the gateway, gRPC to gpu_worker."""
