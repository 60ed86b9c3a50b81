"""Every error of the driver has a place in our tree, and what may be well again in a moment says so."""

import inspect

import pytest
from kafka import errors as driver

from servicekit.errors import InternalError, NotFoundError, ResourceExhaustedError, ServiceError, UnavailableError
from servicekit.eventlog.kafka.errors import KafkaSettingsError, error_from_kafka, kafka_errors

CLASSES = sorted(
    {kind for _, kind in inspect.getmembers(driver, inspect.isclass) if issubclass(kind, driver.KafkaError)},
    key=lambda kind: kind.__name__,
)
NEVER_OURS = {  # transactions, delegation tokens, quorum votes, share groups, tiers, telemetry; or a bug of one side
    "BrokerIdNotRegisteredError",
    "BrokerResponseError",
    "CorruptRecordError",
    "DelegationTokenAuthDisabledError",
    "DelegationTokenExpiredError",
    "DelegationTokenNotFoundError",
    "DelegationTokenOwnerMismatchError",
    "DelegationTokenRequestNotAllowedError",
    "DuplicateBrokerRegistrationError",
    "DuplicateResourceError",
    "DuplicateVoterError",
    "FeatureUpdateFailedError",
    "FencedMemberEpochError",
    "FencedStateEpochError",
    "GroupSubscribedToTopicError",
    "IllegalArgumentError",
    "IllegalStateError",
    "InconsistentClusterIdError",
    "InconsistentVoterSetError",
    "IneligibleReplicaError",
    "InvalidCommitOffsetSizeError",
    "InvalidFetchRequestError",
    "InvalidPrincipalTypeError",
    "InvalidRecordStateError",
    "InvalidRegistrationError",
    "InvalidRequestError",
    "InvalidRequiredAcksError",
    "InvalidTransactionTimeoutError",
    "InvalidTxnStateError",
    "InvalidUpdateVersionError",
    "InvalidVoterKeyError",
    "KafkaError",
    "LogTruncationError",
    "MismatchedEndpointTypeError",
    "NoError",
    "NoOffsetForPartitionError",
    "NoReassignmentInProgressError",
    "OffsetMetadataTooLargeError",
    "OffsetMovedToTieredStorageError",
    "OffsetOutOfRangeError",
    "PositionOutOfRangeError",
    "PrincipalDeserializationFailureError",
    "ResourceNotFoundError",
    "SnapshotNotFoundError",
    "StaleMemberEpochError",
    "TelemetryTooLargeError",
    "TopicDeletionDisabledError",
    "TransactionAbortableError",
    "TransactionAbortedError",
    "TransactionCoordinatorFencedError",
    "TransactionalIdNotFoundError",
    "UnacceptableCredentialError",
    "UnknownControllerIdError",
    "UnknownSubscriptionIdError",
    "UnsupportedAssignorError",
    "UnsupportedEndpointTypeError",
    "VoterNotFoundError",
}


def mapped(kind: type[driver.KafkaError]) -> ServiceError:
    return error_from_kafka(kind({}) if kind is driver.LogTruncationError else kind("why"))


def test_no_class_of_the_driver_is_left_to_chance() -> None:
    """A class of a newer driver is looked at before it counts as our own fault."""
    assert {kind.__name__ for kind in CLASSES if type(mapped(kind)) is InternalError} == NEVER_OURS


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_what_the_driver_would_try_again_may_be_tried_again(kind: type[driver.KafkaError]) -> None:
    error = mapped(kind)
    assert isinstance(error, ServiceError)
    assert kind.__name__ in error.message
    if kind.retriable and kind is not driver.UnknownTopicOrPartitionError:
        assert isinstance(error, UnavailableError | ResourceExhaustedError)


def test_an_unknown_code_is_unavailable_and_names_its_number() -> None:
    assert isinstance(error_from_kafka(driver.for_code(9_999)()), UnavailableError)


def test_the_error_keeps_its_cause_and_says_it_in_one_line() -> None:
    with pytest.raises(NotFoundError) as told, kafka_errors():
        raise driver.UnknownTopicOrPartitionError("no\nsuch")
    assert isinstance(told.value.__cause__, driver.UnknownTopicOrPartitionError)
    assert "\n" not in told.value.message
    with pytest.raises(KafkaSettingsError), kafka_errors():
        raise driver.SaslAuthenticationFailedError("wrong password")
    with pytest.raises(UnavailableError), kafka_errors():
        raise ConnectionResetError("gone")
    with pytest.raises(KeyError), kafka_errors():
        raise KeyError("a bug stays one")
