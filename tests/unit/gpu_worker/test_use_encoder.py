"""The real encoder."""

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from gpu_worker.adapters.use_encoder import UseTextEncoder


@pytest.fixture(scope="module")
def encoder() -> UseTextEncoder:
    return UseTextEncoder(threads=1, max_words=64)


@pytest.fixture(autouse=True, scope="module")
def closed(encoder: UseTextEncoder) -> Iterator[None]:
    yield
    encoder.close()


async def test_vectors_have_length_one_and_meaning(encoder: UseTextEncoder) -> None:
    texts = ["a war film", "ein Kriegsfilm", "cooking with vegetables"]
    vectors = await encoder.encode(texts)
    assert vectors.shape == (3, encoder.dimensions)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


async def test_texts_without_words_are_zero_and_the_order_is_kept(encoder: UseTextEncoder) -> None:
    texts = ["", "a longer text about war", "?!…", "war"]
    vectors = await encoder.encode(texts)
    assert not vectors[[0, 2]].any()
    alone = await asyncio.gather(*(encoder.encode([text]) for text in texts))
    assert np.allclose(vectors, np.concatenate(alone), atol=1e-4)
    assert (await encoder.encode([])).shape == (0, encoder.dimensions)


async def test_a_very_long_text_is_cut(encoder: UseTextEncoder) -> None:
    short, long = await encoder.encode(["word " * 64, "word " * 20_000])
    assert np.allclose(short, long, atol=1e-5)


def test_the_model_id_names_the_package_version(encoder: UseTextEncoder) -> None:
    assert encoder.model_id.startswith("use-multilingual-3/")
