"""Gemini as a writer of texts, through the judge's desk: the same key, limits, retries and ledger."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from placid.judge.desk import Desk
from placid.judge.provider import Ask
from placid.judge.settings import JudgeSettings
from placid.records import BadInputError, PausedError, Unscored

MAX_TOKENS = 2048
"""Of one text, thoughts included."""


@asynccontextmanager
async def gemini_writer(settings: JudgeSettings, folder: Path) -> AsyncIterator[Callable[[str, int], Awaitable[str]]]:
    """Asks settings.model; paid replies are kept below folder/replies.

    The callable takes (what is asked, number of the try) and gives the text, empty where the model refused.

    Raises:
        BadInputError: no key, a refused key, a spent budget.
        PausedError: the API is away or the day is used up.
    """
    from placid.judge.gemini import Gemini  # google-genai is heavy

    provider = Gemini(settings)
    async with Desk(provider, provider.limits, folder) as desk:

        async def ask(brief: str, attempt: int) -> str:
            _, answer = await desk.ask(Ask(prompt=brief, schema=None, max_tokens=MAX_TOKENS), attempt)
            if answer.unscored is Unscored.BUDGET:
                raise BadInputError(f"{answer.why}; what is written is kept, raise it and run the same command")
            if answer.unscored is not None and answer.unscored.passing:
                raise PausedError(
                    f"{settings.model} does not rewrite now ({answer.why}); what is written is kept, run the same "
                    "command again later"
                )
            return "" if answer.unscored is not None else answer.text

        yield ask
