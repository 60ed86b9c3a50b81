"""Writes items and lists as JSON; the parts that belong to an item are written once and kept with it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from hot_path_api.domain.items import Item
from hot_path_api.domain.recommendations import Reason, RecommendationList, RecommendedItem
from servicekit.filters import AttributeValue

# A list shows what an item is like; long texts are read with the item itself.
_MAX_SHOWN_CHARACTERS = 256
_LARGEST_EXACT = 2**53
# Other producers may write any number; what no calendar has is shown as the nearest day that it has.
_YEAR_1_MS, _YEAR_10000_MS = -62_135_596_800_000, 253_402_300_800_000


def moment(unix_ms: int | None) -> str | None:
    """Write a time as RFC 3339."""
    if unix_ms is None:
        return None
    seconds, milliseconds = divmod(min(max(unix_ms, _YEAR_1_MS), _YEAR_10000_MS - 1), 1000)
    shown = datetime.fromtimestamp(seconds, UTC).replace(microsecond=1000 * milliseconds)
    return shown.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def item_document(item: Item) -> dict[str, Any]:
    """Give everything that is known of an item."""
    return {
        "item_id": item.ref.item_id,
        "item_type": item.ref.item_type,
        "title": item.title,
        "description": item.description,
        "attributes": _attributes(item.attributes),
        "created_at": moment(item.created_at_ms),
        "available_from": moment(item.available_from_ms),
        "available_until": moment(item.available_until_ms),
        "hidden": item.hidden,
        "updated_at": moment(item.updated_at_ms),
    }


def list_json(answer: RecommendationList, *, first_rank: int, next_cursor: str | None) -> bytes:
    """Write a list with everything that stands around it."""
    return orjson.dumps(
        {
            "request_id": answer.request_id,
            "model_version": answer.model_version,
            "variant": answer.variant,
            "strategy": answer.strategy,
            "cold_start": answer.cold_start,
            "degraded": answer.degraded,
            "items": _documents(answer.items, first_rank),
            "next_cursor": next_cursor,
        }
    )


def items_json(items: Sequence[RecommendedItem], *, first_rank: int) -> bytes:
    """Write the items of a list alone."""
    return orjson.dumps(_documents(items, first_rank))


def _documents(items: Sequence[RecommendedItem], first_rank: int) -> list[dict[str, Any]]:
    return [
        {
            "item_id": each.item.ref.item_id,
            "item_type": each.item.ref.item_type,
            "title": each.item.title,
            "attributes": each.item.derived.get("attributes") or _keep_attributes(each.item),
            "rank": rank,
            "score": each.score,
            "sources": each.sources,
            "reasons": _reasons_json(each.reasons),
        }
        for rank, each in enumerate(items, first_rank)
    ]


def _keep_attributes(item: Item) -> orjson.Fragment:
    """Write the attributes that every list shows of an item."""
    shown = {
        name: value
        for name, value in _attributes(item.attributes).items()
        if not isinstance(value, str) or len(value) <= _MAX_SHOWN_CHARACTERS
    }
    written = orjson.Fragment(orjson.dumps(shown))
    item.derived["attributes"] = written
    return written


def _reasons_json(reasons: Sequence[Reason]) -> orjson.Fragment | list[dict[str, Any]]:
    """Write reasons; the commonest one, a history item alone, is written once and kept with that item."""
    if len(reasons) == 1 and reasons[0].item is not None and not reasons[0].source:
        derived, name = reasons[0].item.derived, f"reason {reasons[0].code}"
        fragment: orjson.Fragment | None = derived.get(name)
        if fragment is None:
            fragment = derived[name] = orjson.Fragment(orjson.dumps([_reason_document(reasons[0])]))
        return fragment
    return [_reason_document(reason) for reason in reasons]


def _reason_document(reason: Reason) -> dict[str, Any]:
    document: dict[str, Any] = {"code": reason.code}
    if reason.item is not None:
        document["item"] = _evidence(reason.item)
    if reason.source:
        document |= {"source": reason.source, "share": reason.share}
    if reason.meta_path:
        document |= {"meta_path": reason.meta_path, "through": reason.through}
    return document


def _evidence(item: Item) -> dict[str, str]:
    return {"item_id": item.ref.item_id, "item_type": item.ref.item_type, "title": item.title}


def _attributes(attributes: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
    """Give whole numbers as such: 1957, not 1957.0."""
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= _LARGEST_EXACT else value
        for name, value in attributes.items()
    }
