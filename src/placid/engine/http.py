"""Any OpenAI-compatible server: token ids in where it takes them (vLLM, SGLang, llama.cpp), else chat messages.

api = "completions" sends the prompt's ids, so history is never re-tokenised. Reply ids are the server's own where it
gives them (vLLM: return_token_ids), else its text in our tokenizer.
api = "chat" sends messages. Its limits: the server renders and re-tokenises the whole history by its own template, so
prompt_tokens and reply_ids are our tokenizer's view of it, and a reply that holds the template's markers is refused.

Only infrastructure is retried (408, 409, 425, 429, 5xx, timeouts, disconnects, pages of a proxy); a reply that came is
never asked for again, whatever it says. docs/http.md
"""

import asyncio
import email.utils
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from placid.engine import ContextOverflowError, EngineLoad, KvPool, Reply, ReplyRequest
from placid.engine.settings import EngineSettings, HttpSettings
from placid.environment import spare_local_hosts
from placid.records import BadInputError, Finish
from placid.render import Renderer

log = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""Waits between attempts double from the first to the longest, unless the server says Retry-After. All are up to a
quarter longer, by the request's seed, so that what was refused together does not come back together."""
RETRIED = {408, 409, 425, 429}
"""Statuses below 500 that say "later", not "never"."""
FINISH = {"stop": Finish.STOP, "length": Finish.LENGTH, "content_filter": Finish.FILTERED}


class ServerError(Exception):
    """The server failed until the deadline of one reply: infrastructure, so the next run continues here."""


def check(settings: HttpSettings, adapters: Sequence[str]) -> str:
    """The server's key; "" where none is wanted. Nothing is asked of anybody.

    Raises:
        BadInputError: adapters are wanted (no server can pass their gate), or the key's variable is not set.
    """
    if adapters:
        raise BadInputError(
            f"engine.kind = 'http' cannot check adapters ({', '.join(adapters)}), and an unchecked adapter may be a "
            "silent no-op; use engine.kind = 'vllm' for them, or serve the merged model"
        )
    variable = settings.key_variable
    key = os.environ.get(variable, "") if variable else ""
    if variable and not key:
        raise BadInputError(f"engine.http.key_variable = {variable!r}, but that environment variable is not set")
    return key


class HttpEngine:
    """Asks one server. The key goes into one header; wherever it comes back in a message it is blotted out."""

    name = "http"

    def __init__(
        self,
        settings: EngineSettings,
        model: Path,
        adapters: tuple[str, ...] = (),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """model: the local folder whose tokenizer and chat template the served model has. sleep, now: for tests.

        Raises BadInputError as check() does.
        """
        self.context_tokens = settings.context_tokens
        self.pool: KvPool | None = None  # the server's affair
        self.load = EngineLoad()
        self.version = ""
        self._settings, self._model, self._sleep, self._now = settings.http, model, sleep, now
        self._served, self._next = settings.http.served, 0.0
        self._key = check(settings.http, adapters)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=settings.max_concurrent, max_keepalive_connections=None)
        spare_local_hosts()
        self._client = httpx.AsyncClient(
            base_url=settings.http.url.rstrip("/") + "/",
            headers=headers,
            timeout=settings.http.timeout_s,
            limits=limits,
        )

    async def start(self) -> None:
        """Ask the server what it serves. Raises BadInputError if that is not what is wanted."""
        self._renderer = Renderer(self._model)
        listed = (await self._ask("GET", "models", None)).get("data") or []
        names = [str(entry.get("id")) for entry in listed if isinstance(entry, dict)]
        if not self._served and len(names) != 1:
            raise BadInputError(f"{self._settings.url} serves {names}; say which one: engine.http.served")
        self._served = self._served or names[0]
        if names and self._served not in names:
            raise BadInputError(f"{self._settings.url} serves {names}, not engine.http.served = {self._served!r}")
        self.version = self._served

    async def reply(self, request: ReplyRequest) -> Reply:
        """Raises ContextOverflowError, ServerError (the deadline passed), BadInputError (the server refuses us)."""
        if request.among:
            raise BadInputError(
                'engine.kind = "http" cannot choose among letters by log-probability: by = "generation"'
            )
        room = self.context_tokens - len(request.prompt_ids)
        if room < 1:
            raise ContextOverflowError(f"{len(request.prompt_ids)} prompt tokens, {self.context_tokens} of context")
        body: dict[str, Any] = {
            "model": self._served,
            "max_tokens": min(request.max_tokens, room),
            "temperature": request.temperature,
            "seed": request.seed,
        }
        if self._settings.api == "chat":
            messages = self._renderer.messages(request.prompt_ids)
            body["messages"] = [{"role": m.role, "content": m.content} for m in messages]
            body |= {"logprobs": True} if request.logprobs else {}
            return self._read(await self._ask("POST", "chat/completions", body), request)
        body |= {
            "prompt": list(request.prompt_ids),
            "return_token_ids": True,
            "stop_token_ids": sorted(self._renderer.stop_ids),
        }
        body |= {"logprobs": 1} if request.logprobs else {}
        return self._read(await self._ask("POST", "completions", body), request)

    def _read(self, answer: dict[str, Any], request: ReplyRequest) -> Reply:
        """The first choice as a Reply. A server that answers 200 without one is broken, not silent."""
        try:
            choice = answer["choices"][0]
            text = (choice["text"] if self._settings.api == "completions" else choice["message"]["content"]) or ""
            finish = FINISH[choice["finish_reason"]]
        except (KeyError, IndexError, TypeError) as error:
            raise ServerError(f"{self._settings.url} answered without a usable choice ({error!r})") from None
        exact = choice.get("token_ids")
        ids = list(exact) if exact is not None else self._renderer.encode(text)
        if ids and ids[-1] in self._renderer.stop_ids:
            ids.pop()
        values = _logprobs(choice)
        # the server's own tokens alone are parallel to its log-probabilities; some count the end of the turn too
        kept = tuple(values[: len(ids)]) if request.logprobs and exact is not None and len(values) >= len(ids) else None
        used = answer.get("usage") or {}
        return Reply(
            token_ids=tuple(ids),
            text=self._renderer.decode(ids) if exact is not None else text,
            finish=finish,
            cached_tokens=(used.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
            logprobs=kept,
        )

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """One request, repeated while only infrastructure fails and the deadline has not passed."""
        began, wait = self._now(), FIRST_WAIT_S
        late = 1 + (body["seed"] % 1024) / 4096 if body else 1.0
        while True:
            await self._take_turn()
            try:
                answer = await self._client.request(method, path, json=body)
            except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
                raise BadInputError(
                    f"engine.http.url = {self._settings.url!r}: {error}; it begins with http://"
                ) from None
            except httpx.TransportError as error:  # timeouts, refused and broken connections
                fault, pause = f"{type(error).__name__}: {error}", wait
            else:
                value = _object(answer)
                if answer.is_success and value is not None:
                    return value
                # a success without a JSON object is a proxy's page: as passing as a 502
                fault, pause = f"status {answer.status_code}: {self._message(answer)}", _retry_after(answer, wait)
                if not answer.is_success and answer.status_code < 500 and answer.status_code not in RETRIED:
                    self._refuse(answer, path)
            pause *= late
            if self._now() - began + pause > self._settings.deadline_s:
                raise ServerError(f"{self._settings.url} failed for {self._settings.deadline_s:g} s, last {fault}")
            log.warning("%s %s: %s; again in %.1f s", method, path, fault, pause)
            await self._sleep(pause)
            wait = min(2 * wait, LONGEST_WAIT_S)

    def _refuse(self, answer: httpx.Response, path: str) -> None:
        """A status that no repetition changes."""
        said = self._message(answer)
        if "context_length" in said or "maximum context length" in said:
            raise ContextOverflowError(said)
        hint = {
            401: "; check the key in the variable that engine.http.key_variable names",
            404: "; check engine.http.url (it ends in /v1) and engine.http.api (completions: token ids, chat: text)",
        }.get(answer.status_code, "")
        raise BadInputError(f"{self._settings.url} refused {path} with status {answer.status_code}: {said}{hint}")

    async def _take_turn(self) -> None:
        """Keep requests_per_minute: each request has its own moment, equally spaced."""
        if self._settings.requests_per_minute:
            at = max(self._now(), self._next)
            self._next = at + 60 / self._settings.requests_per_minute
            if at > self._now():
                await self._sleep(at - self._now())

    def _message(self, answer: httpx.Response) -> str:
        """What the server said, in one short line without the key."""
        said = " ".join(answer.text.split())
        return (said.replace(self._key, "***") if self._key else said)[:300]

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _logprobs(choice: dict[str, Any]) -> list[float]:
    """In nats, of either API's shape; empty where there are none."""
    given = choice.get("logprobs") or {}
    if given.get("content"):
        return [float(token["logprob"]) for token in given["content"]]
    return [float(value) for value in given.get("token_logprobs") or [] if value is not None]


def _object(answer: httpx.Response) -> dict[str, Any] | None:
    """The JSON object that came, or None if something else did."""
    try:
        value = answer.json()
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _retry_after(answer: httpx.Response, otherwise: float) -> float:
    """Seconds to wait by Retry-After (seconds or a date), else `otherwise`; never less than the first wait."""
    value = answer.headers.get("retry-after", "")
    try:
        seconds = float(value) if value.strip().isdigit() else _until(value)
    except ValueError:  # neither seconds nor a date
        return otherwise
    return max(FIRST_WAIT_S, seconds)


def _until(date: str) -> float:
    """Seconds from now to an HTTP date. Raises ValueError."""
    return email.utils.parsedate_to_datetime(date).timestamp() - time.time()
