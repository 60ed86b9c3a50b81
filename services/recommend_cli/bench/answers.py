"""Checks the answers of a run, off the clock: a fast answer that is wrong counts for nothing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from recommend_cli.bench.load import LoadResult
from recommend_cli.clients.gateway import read_list
from servicekit.identity import item_key

_PERSONALIZED: Final = b"x-personalized: true"
_OK: Final = b"HTTP/1.1 200"


def find_wrong_answers(
    result: LoadResult,
    users: Sequence[str],
    touched: Mapping[str, frozenset[int]],
    trending: tuple[str, ...],
    *,
    tenant: str,
    limit: int,
) -> Counter[str]:
    """Count what is wrong, each answer at its first fault; an answer may be as degraded as it says.

    Args:
        result: Whole answers.
        users: The user that each request number asked for.
        touched: The item keys that each user has touched, which must not come back.
        trending: The list of somebody unknown, which must not come either.
        tenant: Whose users and items these are.
        limit: How many items each answer must have.
    """
    wrong: Counter[str] = Counter()
    for request, head, body in result.bodies():
        fault = _fault(head, body, touched[users[request]], trending, tenant, limit)
        if fault:
            wrong[fault] += 1
    return wrong


def count_degraded(result: LoadResult) -> int:
    """Count the answers that say that they lack something."""
    return sum(b'"degraded":[]' not in body for _, _, body in result.bodies())


def _fault(
    head: bytes, body: bytes, touched: frozenset[int], trending: tuple[str, ...], tenant: str, limit: int
) -> str:
    if not head.startswith(_OK):
        return "no answer" if not head else f"status {head[9:12].decode()}"
    if _PERSONALIZED not in head.lower():
        return "not marked as personal"
    answer = read_list(body)
    if len(answer.items) < limit:
        return "too short" if answer.items else "empty"
    if answer.ids == trending:
        return "not personal"
    if any(item_key(tenant, item.item_type, item.item_id) in touched for item in answer.items):
        return "seen items"
    return ""
