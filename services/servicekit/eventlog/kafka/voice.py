"""Listens to what the driver logs: it tells nowhere else why it could not connect."""

import logging

from kafka.errors import KafkaTimeoutError

from servicekit.logs import get_logger

_log = get_logger(__name__)


class DriverVoice(logging.Handler):
    """Keeps the last trouble with a connection, and passes on what the driver says for those who debug.

    The driver logs each attempt to connect and each lost connection as an error. What comes of them is told once, by
    the adapter's own errors, so the driver's lines go no further than here.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.trouble: Exception | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler. What will be the same next time is not forgotten for a mere lost connection."""
        for said in record.args or ():
            if not isinstance(said, Exception) or isinstance(said, KafkaTimeoutError):
                continue
            if self.trouble is None or getattr(self.trouble, "retriable", True):
                self.trouble = said
        _log.debug("the driver says", module=record.name, text=record.getMessage())


def listen() -> DriverVoice:
    """Give the one who listens to the driver in this process."""
    logger = logging.getLogger("kafka")
    for handler in logger.handlers:
        if isinstance(handler, DriverVoice):
            return handler
    voice = DriverVoice()
    logger.addHandler(voice)
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    return voice
