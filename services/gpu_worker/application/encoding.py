"""Embeds texts for whoever asks, within bounds."""

from collections.abc import Sequence

from gpu_worker.domain.ports import TextEncoder
from servicekit.arrays import Floats
from servicekit.errors import InvalidArgumentError

MAX_TEXTS = 256
MAX_CHARACTERS = 10_000


class TextEncoding:
    """The encoder behind the bounds of the RPC."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self.model_id = encoder.model_id
        self.dimensions = encoder.dimensions

    async def encode(self, texts: Sequence[str]) -> Floats:
        """Give float32[n, D].

        Raises:
            InvalidArgumentError: There are no texts, too many, or one is too long.
        """
        if not 1 <= len(texts) <= MAX_TEXTS:
            raise InvalidArgumentError(f"texts must hold 1 to {MAX_TEXTS} texts, not {len(texts)}", field="texts")
        for number, text in enumerate(texts):
            if len(text) > MAX_CHARACTERS:
                raise InvalidArgumentError(
                    f"texts[{number}] has {len(text)} characters, more than {MAX_CHARACTERS}", field=f"texts[{number}]"
                )
        return await self._encoder.encode(texts)
