"""Trains in a process of its own, so that embedding goes on and a crash costs no more than the run."""

import asyncio
import json
import os
import shutil
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

from gpu_worker.adapters.training_spool import write_job
from gpu_worker.domain.ports import TrainingJob
from gpu_worker.domain.training import MethodChoice, Progress
from servicekit.errors import InternalError, error_from_code

_LONGEST_LINE = 1 << 20
_REPRODUCIBLE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""With another setting CUDA's linear algebra may sum in another order each time."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class ProcessTrainer:
    """See Trainer.

    The process reads the job from a folder, says how it goes in JSON lines and writes the version into the model
    store. It ends itself when its standard input closes, so it does not outlive this process.

    Args:
        spool: Where the job's folder is made; emptied at the start.
        model_store_url: Where the process leaves the version.
        s3_endpoint_url: Where S3 answers; empty for AWS.
        methods: What it computes with.
        command: The program and its first arguments.
    """

    def __init__(
        self,
        spool: Path,
        *,
        model_store_url: str,
        s3_endpoint_url: str = "",
        methods: MethodChoice,
        command: Sequence[str] = (sys.executable, "-m", "gpu_worker.training_main"),
    ) -> None:
        self._spool = spool
        self._store = (model_store_url, s3_endpoint_url)
        self._methods = methods
        self._command = tuple(command)
        shutil.rmtree(spool, ignore_errors=True)

    async def train(self, job: TrainingJob, progress: Progress) -> None:
        """See Trainer."""
        folder = self._spool / job.version
        folder.mkdir(parents=True)
        try:
            await asyncio.to_thread(write_job, folder, job)
            await self._run(folder, progress)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _run(self, folder: Path, progress: Progress) -> None:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            str(folder),
            *self._store,
            json.dumps(asdict(self._methods)),
            stdin=PIPE,
            stdout=PIPE,
            env={
                **os.environ,
                **dict.fromkeys(_THREAD_VARIABLES, str(self._methods.threads)),
                **_REPRODUCIBLE,
            },
            limit=_LONGEST_LINE,
        )
        try:
            await self._follow(process, progress)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def _follow(self, process: Process, progress: Progress) -> None:
        async for line in cast("asyncio.StreamReader", process.stdout):  # it was asked for
            message = json.loads(line)
            if "error" in message:
                raise error_from_code(message["error"], message["message"])
            progress(message["stage"], message["progress"])
        code = await process.wait()
        if code:
            raise InternalError(f"the training process ended with {code}; the log says why")
