"""What can go wrong with a test server, told in one line."""


class ServerError(Exception):
    """A server could not be fetched, started or reached; the message says what to do about it."""
