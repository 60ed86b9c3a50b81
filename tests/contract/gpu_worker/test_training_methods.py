"""The methods that every install has."""

import pytest
from contract.gpu_worker.training_methods_contract import (
    EdlaeSolverContract,
    FactorModelContract,
    NeighbourSearchContract,
)

from gpu_worker.training.methods import EdlaeSolver, FactorModel, IalsFactors, NumpyEdlae, NumpyNeighbours


class TestNumpyEdlae(EdlaeSolverContract):
    adapter = "numpy"

    @pytest.fixture
    def solver(self) -> EdlaeSolver:
        return NumpyEdlae()


class TestNumpyNeighbours(NeighbourSearchContract):
    adapter = "numpy"

    @pytest.fixture
    def search(self) -> NumpyNeighbours:
        return NumpyNeighbours()


class TestIals(FactorModelContract):
    adapter = "ials"

    @pytest.fixture
    def model(self) -> FactorModel:
        return IalsFactors(threads=1)
