"""The gRPC way in: messages to domain, one call, domain to messages."""
