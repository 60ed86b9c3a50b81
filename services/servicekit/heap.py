"""A compiled heap of the best few of many: its root is the worst of them; of equal scores the larger key is the worse.

A heap is two arrays, numbers and scores, of which the first `size` places count; `keys` gives each number its key.
"""

from typing import Any

from servicekit.compiled import compiled


@compiled
def sift_up(numbers: Any, scores: Any, keys: Any, size: Any, item: Any, score: Any) -> None:
    """Add an item to a heap of this size; of equal scores the larger key is the worse."""
    node = size
    while node > 0:
        parent = (node - 1) >> 1
        above = scores[parent]
        if score > above or (score == above and keys[item] < keys[numbers[parent]]):
            break
        numbers[node] = numbers[parent]
        scores[node] = above
        node = parent
    numbers[node] = item
    scores[node] = score


@compiled
def sift_down(numbers: Any, scores: Any, keys: Any, size: Any, item: Any, score: Any) -> None:
    """Replace the root of a heap of this size and let the newcomer sink."""
    node = 0
    child = 1
    while child < size:
        right = child + 1
        below = scores[child]
        if right < size and (
            scores[right] < below or (scores[right] == below and keys[numbers[right]] > keys[numbers[child]])
        ):
            child = right
            below = scores[child]
        if below > score or (below == score and keys[numbers[child]] < keys[item]):
            break
        numbers[node] = numbers[child]
        scores[node] = below
        node = child
        child = 2 * node + 1
    numbers[node] = item
    scores[node] = score


@compiled
def unpack_heap(numbers: Any, scores: Any, keys: Any, size: Any) -> None:
    """Bring a heap into order, best first: the worst of the rest goes last, again and again."""
    for end in range(size - 1, 0, -1):
        item = numbers[end]
        score = scores[end]
        numbers[end] = numbers[0]
        scores[end] = scores[0]
        sift_down(numbers, scores, keys, end, item, score)
