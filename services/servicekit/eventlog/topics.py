"""The topics by name and how each is kept."""

from servicekit.eventlog.port import TopicSpec

CONTENT_CHANGED = "content.changed"
USER_INTERACTIONS = "user.interactions"
USER_ERASED = "user.erased"
CONTENT_EMBEDDED = "content.embedded"
RECOMMENDATIONS_SERVED = "recommendations.served"
MODEL_PUBLISHED = "model.published"

_DAY_MS = 24 * 3600 * 1000


def dlq(topic: str) -> str:
    """Name the topic where a consumer leaves the records that it could not apply."""
    return f"{topic}.dlq"


def default_specs(
    partitions: int = 4, *, retention_days: float = 30.0, dlq_retention_days: float = 90.0
) -> tuple[TopicSpec, ...]:
    """Give every topic with its dead-letter topic.

    What a replica rebuilds itself from is compacted: the last record of each key stays for ever. Interactions and
    lists are kept for a replay of the last month, unless told otherwise, since profile_store is their truth. Erasures
    are kept for ever, so that a replay of older interactions cannot bring a user back.
    """
    retention_ms = int(retention_days * _DAY_MS)
    kept = (
        TopicSpec(CONTENT_CHANGED, partitions, compacted=True),
        TopicSpec(CONTENT_EMBEDDED, partitions, compacted=True),
        TopicSpec(MODEL_PUBLISHED, partitions, compacted=True),
        TopicSpec(USER_ERASED, partitions, compacted=True),
        TopicSpec(USER_INTERACTIONS, partitions, retention_ms=retention_ms),
        TopicSpec(RECOMMENDATIONS_SERVED, partitions, retention_ms=retention_ms),
    )
    letters = tuple(TopicSpec(dlq(spec.name), 1, retention_ms=int(dlq_retention_days * _DAY_MS)) for spec in kept)
    return kept + letters
