"""What an agent has learned: opaque documents with versions, by user and state."""

from collections.abc import Sequence
from dataclasses import dataclass

from profile_store.domain.checks import check_id, check_length
from profile_store.domain.items import MAX_ID, MAX_TENANT
from servicekit.errors import FailedPreconditionError, InvalidArgumentError

MAX_AGENT = 64
MAX_STATE = 255
MAX_DOCUMENT_BYTES = 256 * 1024
MAX_VERSION = 2**62
EVERYBODY = ""
"""The user of a policy that all of an agent's users share."""
_VERSIONS_PER_MS = 1_000


@dataclass(frozen=True, slots=True, order=True)
class PolicyKey:
    """Names one policy; the user may be EVERYBODY."""

    tenant: str
    agent_id: str
    user_id: str
    state: str


@dataclass(frozen=True, slots=True)
class PolicyPut:
    """A policy to write if its stored version is the expected one; 0: if there is none."""

    key: PolicyKey
    document: bytes
    expected_version: int


@dataclass(frozen=True, slots=True)
class Policy:
    """A stored policy."""

    key: PolicyKey
    document: bytes
    version: int
    created_at_ms: int
    updated_at_ms: int


@dataclass(frozen=True, slots=True)
class PutPolicyOutcome:
    """Whether a policy was written, and the version that is stored now; 0: none."""

    applied: bool
    version: int


@dataclass(frozen=True, slots=True)
class PolicyPosition:
    """Where a page of an agent's policies ended."""

    user_id: str
    state: str


class PolicyConflictError(FailedPreconditionError):
    """Another version is stored than the one expected.

    Args:
        expected: The version that the writer expected.
        stored: The version that is there; 0: none.
    """

    def __init__(self, expected: int, stored: int) -> None:
        there = f"version {stored} is stored" if stored else "there is no such policy"
        wanted = f"version {expected} was expected" if expected else "none was expected"
        super().__init__(f"{there} and {wanted}: read it and try again", field="expected_version")
        self.stored = stored


def next_version(expected: int, now_ms: int) -> int:
    """Give the version that follows; it is one of the clock, so that none comes again after an erasure."""
    return max(expected + 1, now_ms * _VERSIONS_PER_MS)


def check_policy_key(key: PolicyKey, *, path: str = "key.") -> None:
    """Refuse a name that breaks the limits; `path` goes before the field's name.

    Raises:
        InvalidArgumentError: Names the field.
    """
    check_agent(key.tenant, key.agent_id, path=path)
    check_length(key.user_id, f"{path}user_id", MAX_ID)
    check_id(key.state, f"{path}state", MAX_STATE)


def check_agent(tenant: str, agent_id: str, *, path: str = "") -> None:
    """Refuse the name of an agent that breaks the limits; `path` goes before the field's name.

    Raises:
        InvalidArgumentError: Names the field.
    """
    check_id(tenant, f"{path}tenant", MAX_TENANT)
    check_id(agent_id, f"{path}agent_id", MAX_AGENT)


def check_put(put: PolicyPut) -> None:
    """Refuse a put that breaks the limits.

    Raises:
        InvalidArgumentError: Names the field.
    """
    check_policy_key(put.key)
    check_document(put.document, MAX_DOCUMENT_BYTES)
    if not 0 <= put.expected_version <= MAX_VERSION:
        raise InvalidArgumentError(
            f"expected_version must lie between 0 and 2^62, not {put.expected_version}", field="expected_version"
        )


def check_document(document: bytes, most: int) -> None:
    """Refuse a document that is too long.

    Raises:
        InvalidArgumentError: Names the field.
    """
    if len(document) > most:
        raise InvalidArgumentError(
            f"document must have at most {most:,} bytes, not {len(document):,}", field="document"
        )


def named_before(puts: Sequence[PolicyPut]) -> set[int]:
    """Give the places of the puts whose policy an earlier one names too."""
    first: dict[PolicyKey, int] = {}
    return {place for place, put in enumerate(puts) if first.setdefault(put.key, place) != place}
