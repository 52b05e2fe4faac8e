"""What the evaluator reads from the environment (prefix ``ASKTWICE_``, and the two names that OpenAI's client uses)."""

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.artifacts import Home
from services.evaluator.operations import Prices

_SNAPSHOTS = {"gpt-4o-mini": "gpt-4o-mini-2024-07-18"}


class EvaluatorSettings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="ASKTWICE_", env_ignore_empty=True, extra="ignore", frozen=True, populate_by_name=True
    )

    home: Path = Path("artifacts")
    questions: Path = Path("data/questions.txt")
    """One question a line: what is asked where a request brings none."""
    data: Path = Path("data/selected_qa_full.csv")
    """Its name stands in result.txt where no adapter tells the file that it was trained on."""
    generator_url: str = "http://generator:8000"
    retriever_url: str = "http://retriever:8000"
    resume: bool = True
    """Whether evaluations that ended with their process are gone on with at the start."""
    concurrency: int = Field(default=8, ge=1, le=256)
    """Questions in flight at the generator, over all evaluations together."""
    margin: float = Field(default=0.05, gt=0, lt=0.5)
    """Differences of the arms' means up to this do not matter; fixed before a run."""
    bertscore: str | None = None
    """Encoder of BERTScore: hub id or folder. None does not measure it."""
    bertscore_layer: int | None = Field(default=None, ge=1)
    """Its layer, where bert-score knows none for it."""
    price_hour: float = Field(default=0.0, ge=0)
    """Of an hour of the machine that answers and trains, for the cost of answers; 0 leaves cost unmeasured."""
    question_deadline_s: float = Field(default=240.0, gt=0)
    """After this long a question counts as failed, tries and waits included."""
    judge_model: str = "gpt-4o-mini"
    judge_timeout_s: float = Field(default=60.0, gt=0)
    """Bounds one call of the judge; the analysis gives up after three."""
    judge_concurrency: int = Field(default=8, ge=1, le=256)
    """Grading calls in flight."""
    judge_seed: int = 1
    judge_max_tokens: int = Field(default=1500, ge=64)
    """Of one grade; a longer one is cut and does not count."""
    judge_examined: int = Field(default=30, ge=10)
    """Planted answers of each kind that a judge is examined on before its grades count."""
    judge_answer_chars: int = Field(default=4000, ge=100)
    """An answer is graded by so much of it."""
    judge_max_calls: int = Field(default=5000, ge=0)
    """Grading stops there; what is left is told as not graded."""
    judge_max_cost: float | None = Field(default=None, ge=0)
    """Likewise, in the currency of the two prices, which must be set with it."""
    judge_price_in: float | None = Field(default=None, ge=0)
    """Of a million tokens of the prompts. Without both prices the cost is not measured."""
    judge_price_out: float | None = Field(default=None, ge=0)
    """Of a million tokens of the replies."""
    openai_api_key: SecretStr | None = Field(default=None, validation_alias="OPENAI_API_KEY")
    openai_base_url: str = Field(default="https://api.openai.com/v1", validation_alias="OPENAI_BASE_URL")

    @model_validator(mode="after")
    def _money_has_prices(self) -> Self:
        if self.judge_max_cost is not None and None in (self.judge_price_in, self.judge_price_out):
            raise ValueError("ASKTWICE_JUDGE_MAX_COST needs ASKTWICE_JUDGE_PRICE_IN and ASKTWICE_JUDGE_PRICE_OUT")
        return self

    @property
    def prices(self) -> Prices | None:
        return Prices(hour=self.price_hour) if self.price_hour else None

    @property
    def grading_model(self) -> str:
        """A model that does not change under its name while a comparison is repeated."""
        return _SNAPSHOTS.get(self.judge_model, self.judge_model)

    @property
    def judge_cache(self) -> Path:
        return self.home / "judge-cache.jsonl"

    @property
    def home_folder(self) -> Home:
        return Home(path=self.home)
