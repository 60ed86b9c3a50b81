"""How the answers of several sources become one pool of candidates."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from hot_path_api.domain.candidates import NO_CANDIDATES, Candidates


def pool_of(parts: Sequence[Candidates], *, enough: int) -> Candidates:
    """Make one pool of the sources' answers: all of them, unless the first source found enough by itself."""
    (pool,) = pools_of([parts], enough=[enough])
    return pool


def pools_of(wanted: Sequence[Sequence[Candidates]], *, enough: Sequence[int]) -> list[Candidates]:
    """Make many pools; those whose parts have one layout in one pass."""
    pools = []
    joined = []
    for at, (parts, least) in enumerate(zip(wanted, enough, strict=True)):
        if not parts or len(parts[0].keys) < least:
            pools.append(merge(parts))
        else:
            pools.append(parts[0])
            joined.append(at)
    depth = 1
    while joined := [at for at in joined if depth < len(wanted[at])]:
        found = join_all([pools[at] for at in joined], [wanted[at][depth] for at in joined])
        for at, pool in zip(joined, found, strict=True):
            pools[at] = pool
        depth += 1
    return pools


def join_all(pools: Sequence[Candidates], others: Sequence[Candidates]) -> list[Candidates]:
    """Add to each pool what another source says of the candidates in it, and none of that source's own.

    It is the cheaper way, and the right one for a pool that is large enough: the blend was fitted on what retrieval
    finds, and the model's columns are not known of others.
    """
    joined = list(pools)
    alike: defaultdict[tuple[tuple[str, ...], int, tuple[str, ...], int], list[int]] = defaultdict(list)
    for at, (pool, other) in enumerate(zip(pools, others, strict=True)):
        if len(other.keys):
            alike[pool.names, len(pool.keys), other.names, len(other.keys)].append(at)
    for members in alike.values():
        for at, pool in zip(members, _join([pools[at] for at in members], [others[at] for at in members]), strict=True):
            joined[at] = pool
    return joined


def _join(pools: Sequence[Candidates], others: Sequence[Candidates]) -> list[Candidates]:
    """Join those of one layout: a key that is on both sides stands beside itself when they are sorted together."""
    own, extra = len(pools[0].names), len(others[0].names)
    length, added = len(pools[0].keys), len(others[0].keys)
    keys = np.concatenate([each.keys for pair in zip(pools, others, strict=True) for each in pair])
    keys = keys.reshape(len(pools), length + added)
    order = keys.argsort(axis=1)
    keys = np.take_along_axis(keys, order, axis=1)
    rows, at = (keys[:, 1:] == keys[:, :-1]).nonzero()
    one, two = order[rows, at], order[rows, at + 1]
    mine, theirs = np.minimum(one, two), np.maximum(one, two) - length

    features = np.zeros((own + extra, len(pools), length), np.float32)
    np.concatenate([pool.features for pool in pools], axis=1, out=features[:own].reshape(own, -1))
    given = np.concatenate([other.features for other in others], axis=1)
    features[own:, rows, mine] = given.take(rows * added + theirs, axis=1)
    return [
        Candidates(
            keys=pool.keys,
            names=pool.names + other.names,
            features=features[:, row],
            because=pool.because,
            shares=pool.shares | other.shares,
            model_version=pool.model_version,
        )
        for row, (pool, other) in enumerate(zip(pools, others, strict=True))
    ]


def merge(parts: Sequence[Candidates]) -> Candidates:
    """Make one pool of the answers of several sources; each source names features of its own.

    A candidate that a source did not name has a share of 0 from it. Any other feature that it lacks (a column of the
    model, such as its popularity) is unknown and taken as the mean of those that have it. With one part only, that
    part is returned as it is; otherwise the pool is sorted by key.

    Args:
        parts: The answers; where two give a reason for the same candidate, the earlier one's stands.
    """
    parts = [part for part in parts if len(part.keys)]
    if not parts:
        return NO_CANDIDATES
    if len(parts) == 1:
        return parts[0]
    keys = np.concatenate([part.keys for part in parts])
    order = keys.argsort(kind="stable")
    keys = keys[order]
    is_first = np.empty(len(keys), np.bool_)
    is_first[0] = True
    np.not_equal(keys[1:], keys[:-1], out=is_first[1:])
    places = np.empty(len(keys), np.intp)
    places[order] = is_first.cumsum() - 1
    keys = keys[is_first]

    names = tuple(name for part in parts for name in part.names)
    features = np.zeros((len(names), len(keys)), np.float32)
    because = np.full(len(keys), -1, np.int32)
    row, end = len(names), len(places)
    for part in reversed(parts):
        row, begin = row - len(part.names), end - len(part.keys)
        mine, end = places[begin:end], begin
        if len(mine) < len(keys):
            for offset, name in enumerate(part.names):
                if name not in part.shares:
                    features[row + offset] = part.features[offset].mean()
        features[row : row + len(part.names), mine] = part.features
        because[mine] = np.where(part.because >= 0, part.because, because[mine])
    return Candidates(
        keys=keys,
        names=names,
        features=features,
        because=because,
        shares=frozenset[str]().union(*(part.shares for part in parts)),
        model_version=next((part.model_version for part in parts if part.model_version), ""),
    )
