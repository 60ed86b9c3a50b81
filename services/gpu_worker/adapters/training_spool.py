"""A training job as files, on its way to the training process."""

import json
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from gpu_worker.domain.ports import TrainingJob
from gpu_worker.domain.training import HoldOut, TrainingData, TrainingItem

_ARRAYS = tuple(each.name for each in fields(TrainingData) if each.name != "items")


def write_job(folder: Path, job: TrainingJob) -> None:
    """Write a job into an empty folder."""
    for name in _ARRAYS:
        np.save(folder / f"{name}.npy", getattr(job.data, name), allow_pickle=False)
    lengths = [len(item) for item in job.items]
    (folder / "items.bin").write_bytes(b"".join(job.items))
    about = {
        "tenant": job.tenant,
        "version": job.version,
        "hold_out": job.hold_out.value,
        "seed": job.seed,
        "manifest": job.manifest,
        "items": [asdict(item) for item in job.data.items],
        "item_lengths": lengths,
    }
    (folder / "job.json").write_text(json.dumps(about), encoding="utf-8")


def read_job(folder: Path) -> TrainingJob:
    """Read a job; the arrays are mapped, not copied."""
    about = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
    packed = (folder / "items.bin").read_bytes()
    ends = np.cumsum(about["item_lengths"]).tolist()
    return TrainingJob(
        tenant=about["tenant"],
        version=about["version"],
        hold_out=HoldOut(about["hold_out"]),
        seed=about["seed"],
        data=TrainingData(items=[_item(item) for item in about["items"]], **arrays),
        items=[packed[end - length : end] for length, end in zip(about["item_lengths"], ends, strict=True)],
        manifest=about["manifest"],
    )


def _item(about: dict[str, object]) -> TrainingItem:
    return TrainingItem(**{name: tuple(value) if isinstance(value, list) else value for name, value in about.items()})  # type: ignore[arg-type]  # written by asdict
