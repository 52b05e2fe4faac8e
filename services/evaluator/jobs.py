"""Evaluations as jobs: each is a task of its own, so that a client that leaves takes nothing with it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from contracts.errors import AskTwiceError, InternalError, NotReady, Overloaded, Unavailable
from contracts.evaluation import Job, JobState, ModeAnswer
from services.evaluator.comparison import Comparison
from services.evaluator.plan import Plan
from services.evaluator.store import UNFINISHED, EvaluationStore, ended

MAX_RUNNING = 64

log = logging.getLogger("asktwice")


@dataclass(slots=True)
class Run:
    """One evaluation of this process, from its start until it ended."""

    job: Job
    task: asyncio.Task[None] | None = None
    failure: AskTwiceError | None = None
    stopped_as: JobState = "interrupted"
    writing: bool = False
    """All is answered and being written: too late to stop."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def becomes(self, job: Job) -> None:
        self.job = job
        self.changed.set()
        self.changed = asyncio.Event()


class Jobs:
    """Starts, watches and stops evaluations."""

    def __init__(self, comparison: Comparison, store: EvaluationStore):
        self._comparison = comparison
        self._store = store
        self._runs: dict[str, Run] = {}
        self._closing = False
        self._starting = 0

    async def start(self, plan: Plan) -> Run:
        """Begin an evaluation; it goes on by itself.

        Raises:
            Overloaded: too many evaluations run.
            Unavailable: the server is stopping.
        """
        self._open()
        if len(self._runs) + self._starting >= MAX_RUNNING:
            raise Overloaded(f"{MAX_RUNNING} evaluations run already. Try again when one has ended.", retry_after=10)
        self._starting += 1
        try:
            job = await asyncio.to_thread(self._store.create, plan)
        finally:
            self._starting -= 1
        run = self._runs[job.id] = Run(job)
        try:
            self._open()
        except Unavailable:
            self._settle(run, ended(job, "interrupted"))
            raise
        run.task = asyncio.create_task(self._run(run, plan), name=job.id)
        return run

    def _open(self) -> None:
        if self._closing:
            raise Unavailable("The server is stopping; ask the one that takes its place.", retry_after=5)

    async def resume(self, ready: Callable[[], Awaitable[None]]) -> None:
        """Go on with the evaluations that ended with their process; what was answered is not asked again.

        Args:
            ready: returns once questions can be answered.
        """
        for id in await asyncio.to_thread(self._store.left):
            try:
                taken = await asyncio.to_thread(self._store.resume, id)
            except (OSError, ValueError) as error:
                log.warning("evaluation %s cannot be gone on with: %s", id, error)
                continue
            if taken:
                job, plan = taken
                log.info("evaluation %s goes on: %d of %d answers are there", id, job.done, job.total)
                run = self._runs[id] = Run(job)
                run.task = asyncio.create_task(self._run(run, plan, ready), name=id)

    async def text(self, run: Run) -> str:
        """Wait for an evaluation and return its result.txt. Whoever stops waiting does not stop it.

        Raises:
            NotReady: it was cancelled.
            Unavailable: the server is stopping.
            AskTwiceError: as the evaluation failed.
        """
        while run.job.state in UNFINISHED:
            await run.changed.wait()
        if run.failure:
            raise run.failure
        if run.job.state == "interrupted":
            raise Unavailable("The server is stopping; the answers it had are kept.")
        if run.job.state != "succeeded":
            raise NotReady(f"Evaluation {run.job.id} was {run.job.state}; the answers it had are kept.")
        return await asyncio.to_thread(self._store.text, run.job.id)

    async def job(self, id: str) -> Job:
        """Return the state of an evaluation.

        Raises:
            NotFound: there is no such evaluation.
        """
        run = self._runs.get(id)
        return run.job if run else await asyncio.to_thread(self._store.job, id)

    async def progress(self, id: str) -> AsyncIterator[Job]:
        """Yield the state now and after each change, the final one last; after a reload simply ask again."""
        run = self._runs.get(id)
        if run is None:
            yield await self.job(id)
            return
        while True:
            job, changed = run.job, run.changed
            yield job
            if job.state not in UNFINISHED:
                return
            await changed.wait()

    async def cancel(self, id: str) -> Job:
        """Stop an evaluation and return its final state; one that has ended stays as it is."""
        run = self._runs.get(id)
        if run is not None:
            await self._stop([run], "cancelled")
            return run.job
        job = await self.job(id)
        if job.state in UNFINISHED:
            raise NotReady(f"Evaluation {id} runs in another process; cancel it there.")
        return job

    async def close(self) -> None:
        """End what still runs, because the process does; return once all of it has ended.

        Whoever waits for a text, or watches a job, is answered at once. Call it on the event loop of the service, as
        often as you like: a server that waits for its open requests before it ends the lifespan calls it first.
        """
        self._closing = True
        await self._stop(list(self._runs.values()), "interrupted")

    async def _stop(self, runs: list[Run], state: JobState) -> None:
        tasks = [run.task for run in runs if run.task]
        for run in runs:
            if run.task and not run.writing and not run.task.cancelling():
                run.stopped_as = state
                run.task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for run in runs:
            if run.job.state in UNFINISHED:  # stopped before its task came to its first step
                self._settle(run, ended(run.job, run.stopped_as))

    async def _run(self, run: Run, plan: Plan, ready: Callable[[], Awaitable[None]] | None = None) -> None:
        id = run.job.id

        async def keep(index: int, answer: ModeAnswer) -> None:
            await asyncio.to_thread(self._store.keep, id, index, answer)
            run.becomes(run.job.model_copy(update={"done": run.job.done + 1}))

        def grading(done: int, total: int) -> None:
            run.becomes(run.job.model_copy(update={"graded": done, "to_grade": total}))

        try:
            if ready:
                await ready()
            result = await self._comparison.run(id, plan, keep, grading)
            run.writing = True
            await asyncio.to_thread(self._store.finish, result)
            final = ended(run.job, "succeeded")
        except asyncio.CancelledError:
            final = ended(run.job, run.stopped_as)
        except AskTwiceError as error:
            run.failure = error
            final = ended(run.job, "failed", error.detail)
        except Exception as error:
            log.exception("evaluation %s failed", id)
            detail = f"Cannot keep the answers: {error.strerror}." if isinstance(error, OSError) else "See the log."
            run.failure = InternalError(f"Evaluation {id} failed. {detail}")
            final = ended(run.job, "failed", run.failure.detail)
        self._settle(run, final)

    def _settle(self, run: Run, final: Job) -> None:
        try:
            self._store.save(final)
        except OSError:
            log.exception("the state of evaluation %s cannot be written", final.id)
        self._runs.pop(final.id, None)
        run.becomes(final)
