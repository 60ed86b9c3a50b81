"""Batches that are answered per element."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from servicekit.errors import InvalidArgumentError

T = TypeVar("T")
R = TypeVar("R")


async def for_each(
    elements: Sequence[T | InvalidArgumentError],
    checked: Callable[[T], T],
    act: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
) -> Sequence[R | InvalidArgumentError]:
    """Act on the elements that pass the check, at once, and give each element its outcome or its error."""
    accepted: list[T] = []
    refused: dict[int, InvalidArgumentError] = {}
    for place, element in enumerate(elements):
        if isinstance(element, InvalidArgumentError):
            refused[place] = element
            continue
        try:
            accepted.append(checked(element))
        except InvalidArgumentError as error:
            refused[place] = error
    outcomes = await act(accepted) if accepted else ()
    if not refused:
        return outcomes
    following = iter(outcomes)
    return [refused[place] if place in refused else next(following) for place in range(len(elements))]
