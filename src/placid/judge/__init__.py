"""What a conversation is worth: a score a turn, with the quote that carries it. A failed judgement is never a zero.

    judge_id = run(settings, run_dir, prompts)      # grades what is not graded yet

Judges (`judge.kind`): `lexical` counts phrases, needs no key and no network, and is not the paper's judge; `gemini`
asks Google's API by a rubric, `local` a model of your own; `replay` gives recorded replies again; `ensemble` is the
median of others (docs/judging.md). Humans: placid.judge.humans.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from placid.judge.desk import Cassette, Desk
from placid.judge.ensemble import EnsembleJudge, ensemble_id
from placid.judge.gemini_models import refuse_ended
from placid.judge.grading import Judge, Progress, Work, grade
from placid.judge.lexical import LexicalJudge
from placid.judge.model import Asker, ModelJudge, judge_id
from placid.judge.provider import Provider
from placid.judge.rubric import FRUSTRATION, load_rubric
from placid.judge.settings import JudgeSettings
from placid.records import BadInputError, Prompt
from placid.store import Index, RunDir, read_json, write_json
from placid.store.lease import leased

__all__ = ["Judge", "JudgeSettings", "LexicalJudge", "check", "check_frustration", "opened", "ready", "run"]


def check(settings: JudgeSettings, subject: Path | None = None) -> str:
    """The id of the judge that the settings name; nothing is asked, nothing written, and no key needed.

    subject: folder of the model under study, which may not judge itself.

    Raises:
        BadInputError: a lexicon or rubric that cannot be read, no judge's weights, no recorded replies.
    """
    if settings.kind == "lexical":
        return LexicalJudge(settings).id
    if settings.kind == "replay":
        return _replayed(settings).id
    if settings.kind == "ensemble":
        return ensemble_id(settings)
    provider = _provider(settings)
    if subject is not None and settings.kind == "local" and not settings.may_judge_itself:
        from placid.judge.local import refuse_itself

        refuse_itself(settings, subject)
    return judge_id(load_rubric(settings.rubric), provider.name, _identity(settings, provider))


def check_frustration(settings: JudgeSettings) -> str:
    """The id, as check(), of a judge whose scores are frustration: what pairs, histories and the report's table take.

    Raises:
        BadInputError: its rubric measures something else; or as check().
    """
    if settings.kind not in ("lexical", "ensemble") and (found := load_rubric(settings.rubric).measures) != FRUSTRATION:
        raise BadInputError(
            f"judge.rubric = {settings.rubric!r} measures {found}, not frustration: grade with it beside the study's "
            f"own judge, placid judge CONFIG --judge.rubric {settings.rubric}; the report then shows both"
        )
    return check(settings)


def ready(settings: JudgeSettings) -> None:
    """Raises BadInputError if the judge could not ask anything (no API key, a model that has ended) or measures no
    frustration. Before hours of rollouts, not after."""
    check_frustration(settings)
    if settings.kind == "gemini":
        from placid.judge.gemini import key  # google-genai is heavy

        key()
        refuse_ended(settings.model)


@asynccontextmanager
async def opened(settings: JudgeSettings, run_dir: RunDir) -> AsyncIterator[tuple[Judge, Desk | None]]:
    """The judge, and the desk where its requests go; leaving waits for what is under way.

    Raises:
        BadInputError: as check().
    """
    if settings.kind == "lexical":
        yield LexicalJudge(settings), None
    elif settings.kind == "replay":
        yield _replayed(settings), None
    elif settings.kind == "ensemble":
        yield EnsembleJudge(settings, run_dir), None
    else:
        async with desk_of(settings, run_dir) as desk:
            yield asking(settings, desk.provider, desk), desk


def desk_of(settings: JudgeSettings, run_dir: RunDir) -> Desk:
    """Where the requests of a judge that asks a model go."""
    provider = _provider(settings)
    name = judge_id(load_rubric(settings.rubric), provider.name, _identity(settings, provider))
    return Desk(provider, provider.limits, run_dir.path / "verdicts" / name)


def asking(settings: JudgeSettings, provider: Provider, asker: Asker) -> ModelJudge:
    """A judge that asks a model through `asker`."""
    return ModelJudge(load_rubric(settings.rubric), provider.name, _identity(settings, provider), asker)


def _provider(settings: JudgeSettings) -> Provider:
    if settings.kind == "local":
        from placid.judge.local import Local

        return Local(settings)
    from placid.judge.gemini import Gemini  # google-genai is heavy

    return Gemini(settings)


def _identity(settings: JudgeSettings, provider: Provider) -> dict[str, object]:
    """The provider's, and which asking of the same it is."""
    return provider.identity() | ({"again": settings.again} if settings.again else {})


def _replayed(settings: JudgeSettings) -> ModelJudge:
    """The judge whose replies are in settings.recorded, under its own id: same words, same scores."""
    folder = settings.recorded
    if folder is None or not (folder / "judge.json").is_file():
        raise BadInputError(f"judge.recorded = {str(folder)!r} is no folder verdicts/<judge_id> with a judge.json")
    written = read_json(folder / "judge.json")
    judge = ModelJudge(load_rubric(settings.rubric), written["provider"], written["identity"], Cassette(folder))
    if judge.id != written["id"]:
        raise BadInputError(
            f"{folder} was recorded with rubric {written['rubric']['name']!r}, sha {written['rubric']['sha256'][:12]}; "
            f"judge.rubric = {settings.rubric!r} is another"
        )
    return judge


def run(
    settings: JudgeSettings,
    run_dir: RunDir,
    prompts: Iterable[Prompt],
    attempt: Path | None = None,
    complete: Callable[[Index], bool] | None = None,
) -> str:
    """Grade every turn of these prompts that this judge has not graded yet; returns the judge's id.

    Turns that a bad hour left without a score (timeout, outage, budget) are graded again. Verdicts are appended in
    groups, so a killed run loses at most one group, and none of it is paid for twice. Conversations are read one by
    one; of the run only the places of its turns are held in memory.

    attempt: folder of the status.json that gets the key `judge`; None: none is written. complete: following: grade what
    appears until this says of the turns found so far that no more will come; None: what is there now.

    Raises:
        BadInputError: an unreadable lexicon, a refused key, a damaged run directory, a spent budget, an unpaid account;
            or the same judge is at work here in another process.
        PausedError: the judge is away or its day is used up.
    """
    if complete is not None and settings.kind == "ensemble":
        raise BadInputError("judge.kind = 'ensemble' cannot follow a rollout: its members must have graded before")
    by_id = {prompt.id: prompt for prompt in prompts}
    with leased(run_dir.path, "judge", f"judge-{check(settings)}"):  # two would pay twice for one reply
        if settings.workers > 1:
            from placid.judge.pool import run_pool  # ray is heavy

            return run_pool(settings, run_dir, by_id, attempt, complete)
        return asyncio.run(_run(settings, run_dir, by_id, attempt, complete))


async def _run(
    settings: JudgeSettings,
    run_dir: RunDir,
    prompts: dict[str, Prompt],
    attempt: Path | None,
    complete: Callable[[Index], bool] | None,
) -> str:
    async with opened(settings, run_dir) as (judge, desk):
        write_json(run_dir.path / "verdicts" / judge.id / "judge.json", judge.card())
        work = Work(run_dir, judge.id, prompts)
        progress = Progress(judge.id, attempt, work.graded, settings.kind == "ensemble")
        with progress.until_the_end():
            await grade(judge, work, lambda counts: progress.say(counts, desk.numbers() if desk else None), complete)
            if desk:
                await desk.settle()
        return judge.id
