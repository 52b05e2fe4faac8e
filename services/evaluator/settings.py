"""What the evaluator reads from the environment (prefix ``ASKTWICE_``, and the two names that OpenAI's client uses)."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.artifacts import Home


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
    concurrency: int = Field(default=8, ge=1, le=256)
    """Questions in flight at the generator, over all evaluations together."""
    question_deadline_s: float = Field(default=240.0, gt=0)
    """After this long a question counts as failed, tries and waits included."""
    judge_model: str = "gpt-4o-mini"
    judge_timeout_s: float = Field(default=60.0, gt=0)
    """Bounds one call of the judge; the analysis gives up after three."""
    openai_api_key: SecretStr | None = Field(default=None, validation_alias="OPENAI_API_KEY")
    openai_base_url: str = Field(default="https://api.openai.com/v1", validation_alias="OPENAI_BASE_URL")

    @property
    def home_folder(self) -> Home:
        return Home(path=self.home)
