"""The training process, started by gpu_worker.

`python -m gpu_worker.training_main JOB_FOLDER MODEL_STORE_URL S3_ENDPOINT_URL METHODS` says on standard output how it
goes, one JSON object a line, and ends when its standard input closes. METHODS is a MethodChoice in JSON.
"""

import asyncio
import json
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from gpu_worker.adapters.model_stores import open_model_store
from gpu_worker.adapters.training_methods import open_methods
from gpu_worker.adapters.training_spool import read_job
from gpu_worker.application.building import Train, build_version
from gpu_worker.domain.training import MethodChoice
from gpu_worker.training import train
from servicekit.errors import FailedPreconditionError, ServiceError, StartupError
from servicekit.logs import configure_logging

_NICENESS = 10  # whoever serves comes first
_STDIN = 0
_STORE_WAIT_S = 60.0


def main(arguments: Sequence[str], *, train_with: Train | None = None) -> int:
    """Train the job of the folder and give the exit code."""
    folder, model_store_url, s3_endpoint_url, methods = arguments
    configure_logging("gpu_worker.training")
    os.nice(_NICENESS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    opening = open_model_store(
        model_store_url, s3_endpoint_url=s3_endpoint_url, staging=Path(folder) / "staging", wait_s=_STORE_WAIT_S
    )
    try:
        with closing(asyncio.run(opening)) as store:
            chosen = train_with or partial(train, methods=open_methods(MethodChoice(**json.loads(methods))))
            build_version(read_job(Path(folder)), train=chosen, store=store, progress=_tell)
    except ServiceError as error:
        _say({"error": error.code, "message": error.message})
        return 1
    except StartupError as error:
        _say({"error": FailedPreconditionError.code, "message": str(error)})
        return 1
    return 0


def _tell(stage: str, done: float) -> None:
    _say({"stage": stage, "progress": done})


def _say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    while os.read(_STDIN, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
