"""What every encoder of texts keeps its word on; an adapter joins with a subclass of four lines."""

import asyncio
from typing import ClassVar

import numpy as np
import pytest

from gpu_worker.domain.ports import TextEncoder

MAX_WORDS = 64
"""The encoder under test reads so many."""


class TextEncoderContract:
    port: ClassVar = "TextEncoder"
    near: ClassVar = ("a war film", "a movie about soldiers in battle")
    """Two texts of one meaning."""
    tolerance: ClassVar = 1e-5

    @pytest.fixture
    def encoder(self) -> TextEncoder:
        """Give an encoder."""
        raise NotImplementedError

    async def test_vectors_have_length_one_and_meaning(self, encoder: TextEncoder) -> None:
        vectors = await encoder.encode([*self.near, "cooking with vegetables"])
        assert vectors.shape == (3, encoder.dimensions)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
        assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2

    async def test_texts_without_words_are_zero_and_the_order_is_kept(self, encoder: TextEncoder) -> None:
        texts = ["", "a longer text about war", "?!…", "war"]
        vectors = await encoder.encode(texts)
        assert not vectors[[0, 2]].any()
        alone = await asyncio.gather(*(encoder.encode([text]) for text in texts))
        np.testing.assert_allclose(vectors, np.concatenate(alone), atol=self.tolerance)

    async def test_no_texts_give_no_vectors(self, encoder: TextEncoder) -> None:
        assert (await encoder.encode([])).shape == (0, encoder.dimensions)

    async def test_a_text_s_vector_does_not_depend_on_the_others_in_the_batch(self, encoder: TextEncoder) -> None:
        generator = np.random.default_rng(4)
        words = ["space", "love", "bank", "river", "robot", "king", "song", "desert"]
        texts = [" ".join(generator.choice(words, generator.integers(1, 40))) for _ in range(40)]
        together = await encoder.encode(texts)
        backwards = await encoder.encode(texts[::-1])
        halves = np.concatenate([await encoder.encode(texts[:7]), await encoder.encode(texts[7:])])
        np.testing.assert_allclose(backwards[::-1], together, atol=self.tolerance)
        np.testing.assert_allclose(halves, together, atol=self.tolerance)

    async def test_the_same_texts_give_the_same_vectors(self, encoder: TextEncoder) -> None:
        texts = ["a war film", "a film about the sea"]
        np.testing.assert_array_equal(await encoder.encode(texts), await encoder.encode(texts))

    async def test_a_very_long_text_is_cut(self, encoder: TextEncoder) -> None:
        short, long = await encoder.encode(["word " * MAX_WORDS, "word " * 20_000])
        np.testing.assert_allclose(short, long, atol=self.tolerance)

    async def test_callers_are_served_side_by_side(self, encoder: TextEncoder) -> None:
        answers = await asyncio.gather(*(encoder.encode([f"film number {n}"] * (n + 1)) for n in range(8)))
        assert [len(answer) for answer in answers] == list(range(1, 9))
        assert all(np.allclose(answer, answer[0], atol=self.tolerance) for answer in answers)
