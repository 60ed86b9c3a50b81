"""What the environment may tell gpu_worker."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from gpu_worker.domain.ports import EncoderKind
from gpu_worker.domain.training import FactorModelName, HoldOut, Precision, TrainerBackend
from servicekit.settings import ServiceSettings

Count = Annotated[int, Field(ge=1)]


def _embedded_store(validated: dict[str, Any]) -> str:
    return f"file://{validated['data_dir'].absolute() / 'models'}"


class GpuWorkerSettings(ServiceSettings):
    """Settings of gpu_worker; lists are JSON in the environment."""

    grpc_port: int = Field(default=50054, ge=0, le=65535)
    """Port of the gRPC server; 0 takes a free one."""
    vector_db_endpoint: str = "127.0.0.1:50051"
    """Where vector_search answers, "host:port"."""
    agentdb_endpoint: str = "127.0.0.1:50053"
    """Where profile_store answers, "host:port"."""
    model_store_url: str = Field(default_factory=_embedded_store)
    """Where versions are written: `file:///FOLDER` or `s3://BUCKET/PREFIX`, whose keys are in the environment as
    the AWS tools read them (AWS_ACCESS_KEY_ID, …); without it the folder `models` in the data folder."""
    s3_endpoint_url: str = ""
    """Where S3 answers, as http://HOST:PORT; empty for AWS."""
    member: str = "gpu_worker"
    """This process's name in its consumer groups, kept over restarts; each replica needs one of its own."""

    # Embedding.
    embedded_attributes: tuple[str, ...] = ("genres", "genre", "categories", "category", "tags")
    """Attributes whose texts are embedded with title and description."""
    embedded_words: Count = 64
    """Of a text only so many words are read; about a millisecond for 20 of them."""
    encoder: EncoderKind = "auto"
    """What makes vectors of texts: `use`, the Universal Sentence Encoder on the CPU; `sentence_transformers`, a model
    in MODELS_DIR (needs the extra `torch`); `auto` is sentence_transformers when a GPU and a model are there. Vectors
    of two encoders are never compared: after a change of encoder the catalogue must be embedded again."""
    models_dir: Path = Path("/models")
    """Folder below which the models of sentence-transformers lie."""
    encoder_model: str = ""
    """Which of several models: its path below MODELS_DIR."""
    encoder_threads: Count = 1
    """Threads of the encoder's linear algebra; more than the machine has cores makes it many times slower."""
    embed_max_batch: Annotated[int, Field(ge=1, le=1_000)] = 64
    """The most changes embedded at once."""
    embed_linger_s: Annotated[float, Field(ge=0.0, le=1.0)] = 0.02
    """How long a batch that has begun waits to fill."""
    embedded_neighbours: Annotated[int, Field(ge=0, le=400)] = 100
    """How many nearest neighbours are announced with an embedded item."""
    vector_gap_interval_s: Annotated[float, Field(ge=0.0)] = 30.0
    """How often vector_search is asked for lost vectors, which are then rebuilt; 0: never."""
    consumer_max_failures_in_a_row: Count = 100
    """After so many bad records one after the other the consumer stops, since something else must be wrong."""

    # Training.
    person_attributes: tuple[str, ...] = ("directors", "director", "actors", "cast", "authors", "writers")
    """Attributes whose texts are people."""
    genre_attributes: tuple[str, ...] = ("genres", "genre")
    """Attributes whose texts are genres."""
    trainer_backend: TrainerBackend = "auto"
    """What trains: `numpy`; `torch` (needs the extra of that name); `auto` is torch when a GPU is there or the
    factors need it."""
    factors_model: FactorModelName = "ials"
    """The model behind the factors: ials, or elsa, which needs torch."""
    training_dense_items: Count = 12_000
    """So many items take part in EDLAE, the most popular ones; its matrix has 8 bytes for each pair of them, 1.1 GiB
    for 12,000 items, and numpy needs three of it, torch one."""
    torch_device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """Where torch computes: cpu, cuda, cuda:1; `auto` is cuda where there is one."""
    torch_precision: Precision = "float64"
    """Precision of EDLAE on torch; float32 is much quicker on a GPU that has few units for float64."""
    torch_memory_gib: Annotated[float, Field(gt=0.0)] = 8.0
    """A matrix of EDLAE larger than this stays off the GPU and is solved there in strips."""
    training_threads: Count = 2
    """Threads of the training's linear algebra."""
    training_min_interactions: Count = 100
    """With fewer interactions no training begins."""
    train_every_interactions: Annotated[int, Field(ge=0)] = 0
    """Train a tenant after so many new interactions; 0: their number does not matter."""
    train_every_minutes: Annotated[float, Field(ge=0.0)] = 1_440.0
    """Train a tenant after so many minutes, if there were interactions; 0: the time does not matter."""
    training_hold_out: HoldOut = HoldOut.TIME
    """How a training by schedule draws its hold-out: time, or random for catalogues without order."""
    training_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the trainings by schedule."""
    kept_versions: Annotated[int, Field(ge=0)] = 5
    """How many versions are kept beside the active one and those that a rollback can reach."""
    git_revision: str = ""
    """The git revision that runs, for the manifests."""
