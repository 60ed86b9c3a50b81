"""Torch and faiss do what numpy does."""

from typing import Any

import numpy as np
import pytest
import torch
from contract.gpu_worker.training_methods_contract import (
    EdlaeSolverContract,
    FactorModelContract,
    NeighbourSearchContract,
    skewed_sequences,
)

from gpu_worker.adapters import torch_edlae
from gpu_worker.adapters.faiss_neighbours import FaissNeighbours
from gpu_worker.adapters.torch_device import ERRORS, be_reproducible, find_device, mapped_errors
from gpu_worker.adapters.torch_edlae import TorchEdlae
from gpu_worker.adapters.torch_elsa import TorchElsaFactors
from gpu_worker.domain.training import HoldOut
from gpu_worker.training.content import content_table
from gpu_worker.training.edlae import cooccurrence_gram, dense_items, session_gram
from gpu_worker.training.methods import EdlaeSolver, FactorModel, NeighbourSearch, NumpyNeighbours
from gpu_worker.training.recipe import starting_point
from gpu_worker.training.tables import sparse_of
from servicekit.errors import FailedPreconditionError, InternalError, ResourceExhaustedError, ServiceError

GIB = 1 << 30
DEVICE = find_device("auto")


@pytest.fixture(scope="session", autouse=True)
def _reproducible() -> None:
    be_reproducible(threads=2)


class TestTorchEdlae(EdlaeSolverContract):
    adapter = "torch"

    @pytest.fixture
    def solver(self) -> EdlaeSolver:
        return TorchEdlae(device=DEVICE, precision="float64", memory_bytes=GIB)


class TestTorchEdlaeInBlocks(EdlaeSolverContract):
    adapter = "torch, many blocks"

    @pytest.fixture
    def solver(self, monkeypatch: pytest.MonkeyPatch) -> EdlaeSolver:
        # The last block is smaller, a step of the kernels holds a few users only.
        monkeypatch.setattr(torch_edlae, "_BLOCK", 37)
        monkeypatch.setattr(torch_edlae, "_USERS_ENTRIES", 20_000)
        monkeypatch.setattr(torch_edlae, "_PAIRS", 5_000)
        return TorchEdlae(device=DEVICE, precision="float64", memory_bytes=GIB)


class TestTorchEdlaeBeyondTheDevice(EdlaeSolverContract):
    adapter = "torch, beyond the device's memory"

    @pytest.fixture
    def solver(self, monkeypatch: pytest.MonkeyPatch) -> EdlaeSolver:
        monkeypatch.setattr(torch_edlae, "_BLOCK", 100)
        return TorchEdlae(device=DEVICE, precision="float64", memory_bytes=1)


class TestTorchEdlaeInSinglePrecision(EdlaeSolverContract):
    adapter = "torch, float32"
    tolerance = 1e-4

    @pytest.fixture
    def solver(self) -> EdlaeSolver:
        return TorchEdlae(device=DEVICE, precision="float32", memory_bytes=GIB)


class TestElsa(FactorModelContract):
    adapter = "elsa"

    @pytest.fixture
    def model(self) -> FactorModel:
        return TorchElsaFactors(device=DEVICE)


class TestFaiss(NeighbourSearchContract):
    adapter = "faiss"

    @pytest.fixture
    def search(self) -> NeighbourSearch:
        return FaissNeighbours(device=DEVICE, threads=2)


def test_the_gram_matrices_are_numpy_s() -> None:
    sequences = skewed_sequences()
    members = dense_items(sequences, 400)
    solver = TorchEdlae(device=DEVICE, precision="float64", memory_bytes=GIB)
    counts = solver.cooccurrence_gram(sequences, members).cpu().numpy()
    np.testing.assert_array_equal(np.tril(counts), np.tril(cooccurrence_gram(sequences, members)))
    kernel = solver.session_gram(sequences, members, half_life_items=3.0).cpu().numpy()
    np.testing.assert_allclose(kernel, session_gram(sequences, members, half_life_items=3.0), rtol=1e-12, atol=1e-12)


def test_faiss_makes_the_same_content_table_as_numpy() -> None:
    vectors = np.random.default_rng(5).normal(size=(300, 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    keys = np.arange(300)
    by_faiss, by_numpy = (
        sparse_of(content_table(keys, keys, vectors, 20, search)).toarray()
        for search in (FaissNeighbours(device=DEVICE, threads=2), NumpyNeighbours())
    )
    np.testing.assert_allclose(by_faiss, by_numpy, atol=1e-3)  # half floats


def test_elsa_s_factors_have_length_one() -> None:
    items, fold_in = TorchElsaFactors(device=DEVICE).factors(skewed_sequences(), starting_point(HoldOut.TIME), seed=1)
    touched = skewed_sequences().popularity() > 0.0
    np.testing.assert_allclose(np.linalg.norm(items[touched], axis=1), 1.0, atol=1e-5)
    assert fold_in is items


def kinds_of(module: Any) -> set[type[Exception]]:
    values = vars(module).values()
    kinds = {kind for kind in values if isinstance(kind, type) and issubclass(kind, Exception)}
    return {kind for kind in kinds if kind.__module__.startswith("torch")}


TORCH_ERRORS = sorted(
    (
        kind
        for kind in kinds_of(torch) | kinds_of(torch.cuda) | kinds_of(torch.linalg)
        if kind.__module__[:5] == "torch"
    ),
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", TORCH_ERRORS)
def test_every_error_of_torch_becomes_one_of_ours(kind: type[Exception]) -> None:
    assert any(issubclass(kind, theirs) for theirs, _ in ERRORS)


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (torch.OutOfMemoryError("CUDA out of memory\nmore"), ResourceExhaustedError),
        (torch.linalg.LinAlgError("not positive-definite"), FailedPreconditionError),
        (RuntimeError("an illegal memory access"), InternalError),
    ],
)
def test_what_torch_raises_stops_at_the_adapter(error: Exception, ours: type[ServiceError]) -> None:
    with pytest.raises(ours, match=r"^EDLAE failed: [^\n]+$") as told, mapped_errors("EDLAE"):
        raise error
    assert told.value.__cause__ is error


def test_a_matrix_that_is_not_positive_definite_is_told() -> None:
    solver = TorchEdlae(device=DEVICE, precision="float64", memory_bytes=GIB)
    sequences = skewed_sequences()
    with pytest.raises(FailedPreconditionError, match=r"EDLAE on co-occurrence failed: .*positive-definite"):
        solver.cooccurrence(sequences, dense_items(sequences, 50), ridge=-50.0, dropout=0.0, neighbours=5)
