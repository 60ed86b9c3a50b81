"""Makes what a training computes with, in the training process."""

from gpu_worker.domain.training import MethodChoice
from gpu_worker.training.methods import IalsFactors, Methods, numpy_methods


def open_methods(choice: MethodChoice) -> Methods:
    """Make the methods; with torch the whole process becomes reproducible, see torch_device."""
    if choice.backend == "numpy":
        return numpy_methods(threads=choice.threads, max_dense_items=choice.dense_items)
    # Imported only when chosen: the base install has no torch.
    from gpu_worker.adapters.faiss_neighbours import FaissNeighbours  # noqa: PLC0415
    from gpu_worker.adapters.torch_device import be_reproducible  # noqa: PLC0415
    from gpu_worker.adapters.torch_edlae import TorchEdlae  # noqa: PLC0415
    from gpu_worker.adapters.torch_elsa import TorchElsaFactors  # noqa: PLC0415

    be_reproducible(threads=choice.threads)
    return Methods(
        edlae=TorchEdlae(device=choice.device, precision=choice.precision, memory_bytes=choice.memory_bytes),
        neighbours=FaissNeighbours(device=choice.device, threads=choice.threads),
        factors=(
            TorchElsaFactors(device=choice.device) if choice.factors == "elsa" else IalsFactors(threads=choice.threads)
        ),
        max_dense_items=choice.dense_items,
    )
