"""Reads bulks: one pass over all elements where they are good, element by element where one is not."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from hot_path_api.api.answers import Answer
from hot_path_api.api.problems import FieldError, InvalidRequestError, field_errors
from hot_path_api.api.schemas import MAX_BULK
from hot_path_api.application.writing import Outcome
from servicekit.errors import ServiceError

M = TypeVar("M", bound=BaseModel)

_CHANGED = (Outcome.CREATED, Outcome.REPLACED)


class BulkReader(Generic[M]):
    """Reads `{"NAME": [element, …]}`."""

    def __init__(self, name: str, model: type[M]) -> None:
        self._name = name
        self._all = TypeAdapter(list[model])  # type: ignore[valid-type]  # a model given at run time
        self._one = TypeAdapter(model)

    def read(self, document: Any) -> tuple[list[tuple[int, M]], dict[int, FieldError]]:
        """Give the good elements with their places, and what is wrong with the others by place.

        Raises:
            InvalidRequestError: The document is not such a bulk, or has too few or too many elements.
        """
        elements = self._elements(document)
        try:
            return list(enumerate(self._all.validate_python(elements))), {}
        except ValidationError:
            good: list[tuple[int, M]] = []
            bad: dict[int, FieldError] = {}
            for index, element in enumerate(elements):
                try:
                    good.append((index, self._one.validate_python(element)))
                except ValidationError as error:
                    bad[index] = field_errors(error)[0]
            return good, bad

    def _elements(self, document: Any) -> list[Any]:
        if not isinstance(document, dict) or not isinstance(document.get(self._name), list):
            raise InvalidRequestError([FieldError(self._name, f'the body is {{"{self._name}": [...]}}')])
        for name in document:
            if name != self._name:
                raise InvalidRequestError([FieldError(str(name), "there is no such field")])
        elements: list[Any] = document[self._name]
        if not 1 <= len(elements) <= MAX_BULK:
            raise InvalidRequestError([FieldError(self._name, f"a bulk has 1 to {MAX_BULK} elements")])
        return elements


class BulkReport:
    """Collects what became of the elements of a bulk, and answers it."""

    def __init__(self, refused: dict[int, FieldError]) -> None:
        self._refused = dict(refused)
        self._outcomes: list[Outcome] = []

    def add(self, indexes: Sequence[int], outcomes: Sequence[Outcome | ServiceError]) -> None:
        """Take note of what became of the elements at these places."""
        for index, outcome in zip(indexes, outcomes, strict=True):
            if isinstance(outcome, ServiceError):
                self.refuse(index, outcome)
            else:
                self._outcomes.append(outcome)

    def refuse(self, index: int, error: ServiceError) -> None:
        """Take note of an element that was refused."""
        self._refused[index] = FieldError(error.field, error.message, error.code)

    def answer(self) -> Answer:
        """Answer 201, 202 when some wait in the log to be applied.

        Raises:
            InvalidRequestError: All were refused.
        """
        if not self._outcomes:
            raise InvalidRequestError(
                [
                    FieldError(f"[{index}].{error.field}" if error.field else f"[{index}]", error.message, error.code)
                    for index, error in sorted(self._refused.items())
                ]
            )
        document = {
            "accepted": len(self._outcomes),
            "applied": sum(outcome in _CHANGED for outcome in self._outcomes),
            "errors": [{"index": index, **error.as_json()} for index, error in sorted(self._refused.items())],
        }
        status = 202 if Outcome.ACCEPTED in self._outcomes else 201
        return Answer(orjson.dumps(document), status=status)
