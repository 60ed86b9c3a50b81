"""The encoder that every install has."""

from collections.abc import Iterator

import pytest
from contract.gpu_worker.text_encoder_contract import MAX_WORDS, TextEncoderContract

from gpu_worker.adapters.use_encoder import UseTextEncoder


@pytest.fixture(scope="module")
def opened() -> Iterator[UseTextEncoder]:
    encoder = UseTextEncoder(threads=1, max_words=MAX_WORDS)
    yield encoder
    encoder.close()


class TestUniversalSentenceEncoder(TextEncoderContract):
    adapter = "use"
    near = ("a war film", "ein Kriegsfilm")
    tolerance = 1e-4

    @pytest.fixture
    def encoder(self, opened: UseTextEncoder) -> UseTextEncoder:
        return opened

    def test_the_model_id_names_the_package_version(self, encoder: UseTextEncoder) -> None:
        assert encoder.model_id.startswith("use-multilingual-3/")
