"""Turns the driver's errors into ours.

ServiceError
├── InvalidArgumentError      a record that no broker takes
├── NotFoundError             a topic that is not there
├── FailedPreconditionError   another consumer has this one's name; a topic is not as it must be
├── UnavailableError          everything that may be well again in a moment
└── InternalError             our fault, or the driver's
    └── KafkaSettingsError    nothing but other settings will help
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from kafka import errors as driver
from kafka.consumer.fetcher import RecordTooLargeError

from servicekit.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)

_MESSAGE_LENGTH = 500


class KafkaSettingsError(InternalError):
    """The cluster refuses us, or what we ask of it, until somebody changes the settings."""


# The closest class counts, so a base stands for those below that are not named.
TABLE: Final[dict[type[Exception], type[ServiceError]]] = {
    # Everything of which the driver itself says that it may succeed later, lost connections and time-outs among it.
    driver.RetriableError: UnavailableError,
    # The same, though the driver does not say so: a broker that is starting, stopping, moving or out of step.
    driver.BrokerNotAvailableError: UnavailableError,
    driver.UnknownBrokerIdError: UnavailableError,
    driver.UnknownError: UnavailableError,
    driver.StaleBrokerEpochError: UnavailableError,
    driver.StaleControllerEpochError: UnavailableError,
    driver.OperationNotAttemptedError: UnavailableError,
    driver.NewLeaderElectedError: UnavailableError,
    driver.ReassignmentInProgressError: UnavailableError,
    driver.LogDirNotFoundError: UnavailableError,
    driver.KafkaProtocolError: UnavailableError,
    # A group that changed under a request; the next poll joins it again.
    driver.CommitFailedError: UnavailableError,
    driver.IllegalGenerationError: UnavailableError,
    driver.UnknownMemberIdError: UnavailableError,
    driver.RebalanceInProgressError: UnavailableError,
    driver.MemberIdRequiredError: UnavailableError,
    # The producer lost count with the broker: what was on its way may be in the log, and appending again is right.
    driver.OutOfOrderSequenceNumberError: UnavailableError,
    driver.DuplicateSequenceNumberError: UnavailableError,
    driver.UnknownProducerIdError: UnavailableError,
    driver.InvalidProducerEpochError: UnavailableError,
    driver.InvalidProducerIdMappingError: UnavailableError,
    driver.ProducerFencedError: UnavailableError,
    driver.QuotaViolationError: ResourceExhaustedError,
    driver.ThrottlingQuotaExceededError: ResourceExhaustedError,
    driver.GroupMaxSizeReachedError: ResourceExhaustedError,
    driver.UnknownTopicOrPartitionError: NotFoundError,
    driver.GroupIdNotFoundError: NotFoundError,
    driver.TopicAlreadyExistsError: AlreadyExistsError,
    driver.MessageSizeTooLargeError: InvalidArgumentError,
    driver.RecordListTooLargeError: InvalidArgumentError,
    driver.InvalidRecordError: InvalidArgumentError,
    driver.InvalidTimestampError: InvalidArgumentError,
    driver.InvalidTopicError: InvalidArgumentError,
    driver.FencedInstanceIdError: FailedPreconditionError,
    driver.UnreleasedInstanceIdError: FailedPreconditionError,
    driver.NonEmptyGroupError: FailedPreconditionError,
    # Only the settings help: who we are, how we talk, what the cluster can do, how topics are kept.
    driver.AuthorizationError: KafkaSettingsError,
    driver.SaslAuthenticationFailedError: KafkaSettingsError,
    driver.UnsupportedSaslMechanismError: KafkaSettingsError,
    driver.IllegalSaslStateError: KafkaSettingsError,
    driver.SecurityDisabledError: KafkaSettingsError,
    driver.KafkaConfigurationError: KafkaSettingsError,
    driver.UnsupportedVersionError: KafkaSettingsError,
    driver.UnrecognizedBrokerVersion: KafkaSettingsError,
    driver.UnsupportedForMessageFormatError: KafkaSettingsError,
    driver.UnsupportedCompressionTypeError: KafkaSettingsError,
    driver.UnsupportedCodecError: KafkaSettingsError,
    driver.InvalidReplicationFactorError: KafkaSettingsError,
    driver.InvalidReplicationAssignmentError: KafkaSettingsError,
    driver.InvalidPartitionsError: KafkaSettingsError,
    driver.InvalidConfigurationError: KafkaSettingsError,
    driver.InvalidSessionTimeoutError: KafkaSettingsError,
    driver.InvalidGroupIdError: KafkaSettingsError,
    driver.InconsistentGroupProtocolError: KafkaSettingsError,
    driver.PolicyViolationError: KafkaSettingsError,
    RecordTooLargeError: InternalError,
    # The rest is of transactions, tokens, votes and share groups, which nobody here uses, or a bug.
    driver.KafkaError: InternalError,
}


def error_from_kafka(error: driver.KafkaError) -> ServiceError:
    """Give our error for one of the driver's; the driver's becomes its cause where it is raised."""
    kind = next(TABLE[base] for base in type(error).__mro__ if base in TABLE)
    name, said = type(error).__name__, " ".join(" ".join(map(str, error.args)).split())
    text = said if said.startswith(name) else f"{name}: {said}"
    return kind(f"Kafka: {text[:_MESSAGE_LENGTH]}")


@contextmanager
def kafka_errors() -> Iterator[None]:
    """Turn a driver's error into ours."""
    try:
        yield
    except driver.KafkaError as error:
        raise error_from_kafka(error) from error
    except OSError as error:
        raise UnavailableError(f"Kafka: {error}") from error
