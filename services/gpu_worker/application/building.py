"""Makes a version out of a training job: train, name the files, write the manifest."""

from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gpu_worker.domain.ports import ModelStore, TrainingJob
from gpu_worker.domain.training import HoldOut, ItemTable, Progress, TrainedModel, TrainingData

FORMAT = 1
_TRAINING_PART = 0.97  # writing takes the rest


class Train(Protocol):
    """`gpu_worker.training.train`."""

    def __call__(self, data: TrainingData, *, hold_out: HoldOut, seed: int, progress: Progress) -> TrainedModel:
        """Train; the same data, seed and hold-out give the same model."""
        ...


def build_version(job: TrainingJob, *, train: Train, store: ModelStore, progress: Progress) -> None:
    """Train and leave a complete version in the model store; blocking."""
    model = train(
        job.data,
        hold_out=job.hold_out,
        seed=job.seed,
        progress=lambda stage, done: progress(stage, done * _TRAINING_PART),
    )
    progress("writing the version", _TRAINING_PART)
    store.write(
        job.tenant, job.version, arrays=_arrays(job.data, model), items=job.items, manifest=_manifest(job, model)
    )


def _arrays(data: TrainingData, model: TrainedModel) -> dict[str, npt.NDArray[Any]]:
    arrays: dict[str, npt.NDArray[Any]] = {
        "item_keys": data.item_keys,
        "content_keys": data.vector_keys,
        "content_vectors": data.vectors,
        "factors": model.factors.items,
        "fold_in": model.factors.fold_in,
    }
    for name, (table, _) in model.tables.items():
        _check(name, table, len(data.item_keys))
        arrays |= {f"{name}.indptr": table.indptr, f"{name}.indices": table.indices, f"{name}.weights": table.weights}
    arrays |= model.item_columns
    return arrays


def _check(name: str, table: ItemTable, items: int) -> None:
    """Refuse what vector_search would refuse, while the one who made it can still be blamed."""
    size = len(table.indices)
    if len(table.indptr) != items + 1 or table.indptr[0] != 0 or table.indptr[-1] != size or len(table.weights) != size:
        raise ValueError(f"the table {name} does not fit {items} items and {size} entries")
    if size and not (table.indices.min() >= 0 and table.indices.max() < items and np.isfinite(table.weights).all()):
        raise ValueError(f"the table {name} names items that do not exist or has weights that are not finite")


def _manifest(job: TrainingJob, model: TrainedModel) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "tenant": job.tenant,
        "version": job.version,
        "seed": job.seed,
        "hold_out": job.hold_out.value,
        **job.manifest,
        "sources": {name: {"table": name, **asdict(settings)} for name, (_, settings) in model.tables.items()},
        "factors": {"dimensions": model.factors.items.shape[1], **asdict(model.factors.settings)},
        "item_columns": list(model.item_columns),
        "serving": {"version": job.version, **model.serving},
        "metrics": {ranker: dict(values) for ranker, values in model.metrics.items()},
        "report": dict(model.report),
    }
