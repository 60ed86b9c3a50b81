"""What the server refuses, with the status that a real one gives."""

import grpc


class RefusedError(Exception):
    """A request that is answered by a status other than OK."""

    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.status = status


def not_found(what: str) -> RefusedError:
    """Say that a collection, a point or an alias's target does not exist."""
    return RefusedError(grpc.StatusCode.NOT_FOUND, f"Not found: {what} doesn't exist!")


def wrong(what: str) -> RefusedError:
    """Say that the request is wrong."""
    return RefusedError(grpc.StatusCode.INVALID_ARGUMENT, f"Wrong input: {what}")


def exists_already(what: str) -> RefusedError:
    """Say that what was to be made is there."""
    return RefusedError(grpc.StatusCode.ALREADY_EXISTS, f"Wrong input: {what} already exists!")
