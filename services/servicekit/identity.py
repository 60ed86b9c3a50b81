"""Turns the caller's ids into 63-bit keys that every store holds as the same positive integer."""

from hashlib import blake2b

_MASK_63 = (1 << 63) - 1


def item_key(tenant: str, item_type: str, item_id: str) -> int:
    """Give the key of an item, a positive integer below 2^63.

    Stored data depends on it: BLAKE2b (RFC 7693) of the three parts in UTF-8, each preceded by its length in bytes as
    four little-endian bytes so that no two triples share an input; its first eight bytes little-endian, without the
    top bit.
    """
    return _key(tenant, item_type, item_id)


def user_key(tenant: str, user_id: str) -> int:
    """Give the key of a user, made like that of an item from two parts."""
    return _key(tenant, user_id)


def _key(*parts: str) -> int:
    digest = blake2b(digest_size=8)
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "little"))
        digest.update(encoded)
    return int.from_bytes(digest.digest(), "little") & _MASK_63
