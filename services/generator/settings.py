"""What the generator reads from the environment (prefix ``ASKTWICE_``)."""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.artifacts import Home
from contracts.prompts import SYSTEM_PROMPT


class GeneratorSettings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="ASKTWICE_", env_ignore_empty=True, extra="ignore", populate_by_name=True
    )

    home: Path = Path("artifacts")
    base: str = "models/asktwice-tiny"
    """A folder with a causal language model, or its id on the Hugging Face hub."""
    profile: str = "demo"
    """Told by ``/readyz``; it decides nothing here."""
    quantization: Literal["nf4", "none"] = "nf4"
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """``auto``: bfloat16 on a GPU that has it, float16 on one that has not, float32 on the CPU."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of the model; by default chosen from its size."""
    gpu_memory_share: float = Field(default=1.0, gt=0, le=1)
    """The part of the GPU's memory that this process may take."""
    system_prompt: str = SYSTEM_PROMPT
    """An adapter that was trained with another one is refused."""
    backend: Literal["transformers", "openai"] = Field(
        default="transformers", validation_alias=AliasChoices("GENERATOR_BACKEND", "ASKTWICE_BACKEND", "backend")
    )
    """What generates: our own engine, or a server that speaks OpenAI's API, such as vLLM."""
    backend_url: str = "http://127.0.0.1:8001/v1"
    """Of the backend ``openai``: where its API is, up to and with ``/v1``."""
    backend_api_key: str = "none"
    backend_model: str | None = None
    """What that server calls the base; by default as ``base``."""
    adapter_ranks: int = Field(default=256, ge=1, le=8192)
    """How much rank the adapters that are in the model may have together; others take turns with them."""
    adapters_gb: float = Field(default=4.0, ge=0)
    """Memory that adapters may take beside the model, to be back in it soon; of others the files are read again."""
    checkpoints_gb: float = Field(default=8.0, ge=0)
    """Memory that fully fine-tuned models may take together; one that is asked for makes room for itself."""
    checkpoint_idle_s: float = Field(default=600.0, gt=0)
    """After this long without a request such a model is let go."""
    retriever_url: str | None = None
    context: int = Field(default=4096, ge=128)
    """Tokens that prompt and answer may have together; fewer where the model was made for fewer. Memory for eight
    requests of this length is set aside."""
    max_batch: int = Field(default=16, ge=1, le=256)
    queue_limit: int = Field(default=512, ge=64)
    """Requests that may wait beside those that run; one more is answered 429, at the door."""
    deadline_s: float = Field(default=180.0, gt=0)
    """After this long a request ends with 504, wherever it is."""
    stop_grace_s: float = Field(default=10.0, ge=0)
    """After being told to stop it answers for so long what it has accepted, then it refuses the rest."""
    watch_s: float = Field(default=1.0, gt=0)
    """How often the folder of adapters is looked at."""

    @property
    def home_folder(self) -> Home:
        return Home(path=self.home)
