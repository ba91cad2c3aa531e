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
import json
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from placid.engine import (
    ContextOverflowError,
    EngineLoad,
    FilteredError,
    KvPool,
    NoReplyError,
    Reply,
    ReplyRequest,
    RequestError,
)  # fmt: skip
from placid.engine.faults import (
    Blame,
    blame,
    count_of,
    finish_of,
    is_local,
    message_of,
    proxy_note,
    sentence,
    text_of,
    warn_once,
    without_thought,
    writable,
)  # fmt: skip
from placid.engine.served import ServedModel
from placid.engine.settings import EngineSettings, HttpSettings
from placid.environment import spare_local_hosts
from placid.records import BadInputError, Finish, Message, PausedError
from placid.render import Renderer

log = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""Waits between attempts double from the first to the longest, unless the server says Retry-After. All are up to a
quarter longer, by the request's seed, so that what was refused together does not come back together."""
BROKEN_TRIES = 3
"""A success without a usable reply is asked for so often."""
IN_A_ROW = 20
"""After so many refusals without one success it is seen again whether the server answers anybody."""
BODY_BYTES = 1 << 20
TOKEN_BYTES = 1 << 10
"""Most bytes of an answer: a share of its own, and so many a token asked for (text, id, log-probability)."""
ROUNDING = 1e-3
"""A log-probability may lie so far above 0."""
VERSION_S = 5.0
"""Seconds for the question which version of vLLM serves; other servers do not know it."""
PROBE = "Say yes."


OWN_FAULT: dict[Blame, type[RequestError]] = {
    Blame.TOO_LONG: ContextOverflowError,
    Blame.FILTERED: FilteredError,
    Blame.REJECTED: RequestError,
}


class ServerError(PausedError):
    """The server answers nobody any more: the next run goes on here."""


class BrokenError(Exception):
    """A success that holds no reply."""


class RefusalError(Exception):
    """An answer that no repetition changes."""

    def __init__(self, whose: Blame, fault: str) -> None:
        super().__init__(fault)
        self.whose, self.fault = whose, fault


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
        served_file: Path | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """model: the local folder whose tokenizer and chat template the served model has. served_file: see
        ServedModel. sleep, now: for tests.

        Raises BadInputError as check() does.
        """
        self.context_tokens = settings.context_tokens
        self.pool: KvPool | None = None  # the server's affair
        self.load = EngineLoad()
        self.version = ""
        self._settings, self._model, self._sleep, self._now = settings.http, model, sleep, now
        self._served, self._next = settings.http.served, 0.0
        self._identity = ServedModel(served_file)
        self._answered_at: float | None = None
        """When a reply came last, by `now`."""
        self._refusals, self._probing = 0, asyncio.Lock()
        """Refusals since then."""
        self._thinking_off = settings.http.api == "chat"
        """Ask chat servers to switch thinking off, as our own rendering does; until one does not know how."""
        self._key = check(settings.http, adapters)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=settings.max_concurrent, max_keepalive_connections=None)
        spare_local_hosts()
        self._client = httpx.AsyncClient(
            base_url=settings.http.url.rstrip("/") + "/",
            headers=headers,
            timeout=settings.http.timeout_s,
            limits=limits,
            trust_env=not is_local(settings.http.url),  # a proxy of the environment never reaches this machine
        )

    async def start(self) -> None:
        """Ask the server what it serves. Raises BadInputError if that is not what is wanted."""
        self._renderer = Renderer(self._model)
        listed = (await self._ask("GET", "models", None)).get("data")
        entries = listed if isinstance(listed, list) else []
        names = [sentence(str(entry.get("id"))) for entry in entries[:100] if isinstance(entry, dict)]
        if not self._served and len(names) != 1:
            raise BadInputError(f"{self._settings.url} serves {names}; say which one: engine.http.served")
        self._served = self._served or names[0]
        if names and self._served not in names:
            raise BadInputError(f"{self._settings.url} serves {names}, not engine.http.served = {self._served!r}")
        version = await self._vllm_version()
        self.version = f"{self._served} on vLLM {version}" if version else self._served

    async def _vllm_version(self) -> str:
        """Of the server, if it is vLLM; it stands beside the API's root."""
        try:
            async with asyncio.timeout(VERSION_S):
                address = str(self._client.base_url.join("/version"))
                status, _, body = await self._fetch("GET", address, None, BODY_BYTES)
        except (httpx.HTTPError, TimeoutError, BrokenError):
            return ""
        version = (_object(body) or {}).get("version") if status == 200 else None
        return sentence(version) if isinstance(version, str) else ""

    async def reply(self, request: ReplyRequest) -> Reply:
        """Raises RequestError (this request gets no reply), ServerError (nobody is answered any more), BadInputError
        (settings or key are refused, or another model answers)."""
        if request.among:
            raise BadInputError(
                'engine.kind = "http" cannot choose among letters by log-probability: by = "generation"'
            )
        room = self.context_tokens - len(request.prompt_ids)
        if room < 1:
            raise ContextOverflowError(f"{len(request.prompt_ids)} prompt tokens, {self.context_tokens} of context")
        path, body = self._body(request, room)
        answer = await self._ask("POST", path, body)
        reply = self._read(answer, request)
        named = answer.get("model")
        self._identity.check(self._served, sentence(named) if isinstance(named, str) and named else self._served)
        return reply

    def _body(self, request: ReplyRequest, room: int) -> tuple[str, dict[str, Any]]:
        """Path and JSON of a request. room: tokens that the context leaves."""
        body: dict[str, Any] = {
            "model": self._served,
            "max_tokens": min(request.max_tokens, room),
            "temperature": request.temperature,
            "seed": request.seed,
        }
        if self._settings.api == "chat":
            try:
                messages = self._renderer.messages(request.prompt_ids)
            except BadInputError as error:  # a reply that holds the template's own markers: its conversation ends
                raise RequestError(str(error)) from None
            body["messages"] = [{"role": m.role, "content": m.content} for m in messages]
            body |= {"logprobs": True} if request.logprobs else {}
            body |= {"chat_template_kwargs": {"enable_thinking": False}} if self._thinking_off else {}
            return "chat/completions", body
        body |= {
            "prompt": list(request.prompt_ids),
            "return_token_ids": True,
            "stop_token_ids": sorted(self._renderer.stop_ids),
        }
        return "completions", body | ({"logprobs": 1} if request.logprobs else {})

    def _choice(self, answer: dict[str, Any]) -> tuple[dict[str, Any], str, Finish]:
        """The first choice, its text, and why it ended. Raises BrokenError: there is no reply in the answer."""
        choices = answer.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            raise BrokenError("no choice in it")
        message = choice if self._settings.api == "completions" else choice.get("message")
        content = message.get("text" if message is choice else "content", "") if isinstance(message, dict) else 0
        text, finish = text_of(content), finish_of(choice.get("finish_reason"))
        if text is None:
            raise BrokenError(f"{sentence(repr(content))[:60]} is no text")
        if finish is None:
            raise BrokenError("the server broke the reply off")
        return choice, text, finish

    def _read(self, answer: dict[str, Any], request: ReplyRequest) -> Reply:
        """The first choice as a Reply; what is wrong beside the text is left out, and said once."""
        choice, text, finish = self._choice(answer)
        message = choice.get("message")
        aside = isinstance(message, dict) and (message.get("reasoning_content") or message.get("reasoning"))
        text, thought = without_thought(text)
        if thought or aside:
            warn_once(
                f"{self._settings.url}: the model thinks before it answers, though it was asked not to; thoughts are "
                "left out, and where they take all of max_tokens the reply is empty: switch thinking off at the "
                "server, or raise max_tokens"
            )
        exact = None if thought else self._exact_ids(choice)
        ids = exact if exact is not None else self._renderer.encode(text)
        if ids and ids[-1] in self._renderer.stop_ids:
            ids.pop()
        # the server's own tokens alone are parallel to its log-probabilities; some count the end of the turn too
        values = _logprobs(choice) if request.logprobs and exact is not None else None
        used = answer.get("usage")
        details = used.get("prompt_tokens_details") if isinstance(used, dict) else None
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        if cached is not None and count_of(cached) is None:
            warn_once(f"{self._settings.url}: cached_tokens = {sentence(repr(cached))[:60]} is no number of tokens")
        return Reply(
            token_ids=tuple(ids),
            text=writable(self._renderer.decode(ids)) if exact is not None else text,
            finish=finish,
            cached_tokens=count_of(cached) or 0,
            logprobs=tuple(values[: len(ids)]) if values is not None and len(values) >= len(ids) else None,
        )

    def _exact_ids(self, choice: dict[str, Any]) -> list[int] | None:
        """The server's own token ids; None where it gives none, or none of this tokenizer's."""
        given = choice.get("token_ids")
        if given is None:
            return None
        known = self._renderer.vocabulary
        if isinstance(given, list) and all(count_of(token) is not None and token < known for token in given):
            return list(given)
        warn_once(f"{self._settings.url}: its token_ids are none of this tokenizer's; its text is tokenised instead")
        return None

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """One request, repeated while only infrastructure fails and the deadline has not passed."""
        began, wait, broken = self._now(), FIRST_WAIT_S, 0
        late = 1 + (body["seed"] % 1024) / 4096 if body else 1.0
        while True:
            await self._take_turn()
            pause = wait
            try:
                value, fault, pause = await self._once(method, path, body, wait)
            except BrokenError as error:
                value, fault, broken = None, f"a success without a reply: {error}", broken + 1
            except RefusalError as error:
                raise await self._refused(error, body) from None
            if value is not None:
                return value
            pause *= late
            if broken >= BROKEN_TRIES or self._now() - began + pause > self._settings.deadline_s:
                raise await self._given_up(body, began, fault, broken >= BROKEN_TRIES)
            log.warning("%s %s: %s; again in %.1f s", method, path, fault, pause)
            await self._sleep(pause)
            wait = min(2 * wait, LONGEST_WAIT_S)

    async def _once(
        self, method: str, path: str, body: dict[str, Any] | None, wait: float
    ) -> tuple[dict[str, Any] | None, str, float]:
        """(the answer, "", 0), or (None, what failed in passing, seconds to wait).

        Raises BrokenError, RefusalError or BadInputError.
        """
        most = BODY_BYTES + TOKEN_BYTES * (body["max_tokens"] if body else 0)
        try:
            async with asyncio.timeout(self._settings.timeout_s):  # of all of it: bytes may drip for ever
                status, headers, raw = await self._fetch(method, path, body, most)
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise BadInputError(f"engine.http.url = {self._settings.url!r}: {error}; it begins with http://") from None
        except TimeoutError:
            return None, f"no whole answer within {self._settings.timeout_s:g} s", wait
        except httpx.TransportError as error:  # timeouts, refused and broken connections
            told = sentence(f"{type(error).__name__}: {error}", self._key)
            return None, told + proxy_note(self._settings.url), wait
        value = _object(raw)
        inner = value.get("error") if value and not value.get("choices") else None
        if status == 200 and isinstance(inner, dict):  # some gateways fail with a success
            status = count_of(inner.get("code")) or 502
        if 200 <= status < 300 and value is not None:
            if body is not None:
                self._choice(value)
                self._answered_at, self._refusals = self._now(), 0
            return value, "", 0.0
        said = message_of(raw.decode(errors="replace"), self._key)
        # a success without a JSON object is a proxy's page: as passing as a 502
        whose = Blame.PASSING if 200 <= status < 300 else blame(status, said)
        if whose is Blame.PASSING:
            return None, f"status {status}: {said}", _retry_after(headers, wait)
        if whose is Blame.REJECTED and body and "chat_template_kwargs" in body:
            plain = {name: value for name, value in body.items() if name != "chat_template_kwargs"}
            result = await self._once(method, path, plain, wait)  # raises if that was not it
            self._thinking_off = self._thinking_off and result[0] is None
            warn_once(f"{self._settings.url} takes no chat_template_kwargs: thinking cannot be switched off from here")
            return result
        fault = f"refused {path} with status {status}: {said}"
        if 300 <= status < 400:
            where = sentence(headers.get("location", ""))
            fault += f"; it redirects to {where}, where no key is sent: set engine.http.url"
        raise RefusalError(whose, fault)

    async def _fetch(
        self, method: str, path: str, body: dict[str, Any] | None, most: int
    ) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and body of one attempt. Raises BrokenError: the body is longer than `most` bytes."""
        raw = bytearray()
        async with self._client.stream(method, path, json=body) as answer:
            async for part in answer.aiter_bytes():
                raw += part
                if len(raw) > most:
                    raise BrokenError(f"an answer of more than {most} bytes")
        return answer.status_code, answer.headers, bytes(raw)

    async def _refused(self, error: RefusalError, body: dict[str, Any] | None) -> Exception:
        """What to raise: the request's own fault, or what only the user can mend."""
        if error.whose in OWN_FAULT and body is not None:
            self._refusals += 1
            doubtful = self._answered_at is None or self._refusals % IN_A_ROW == 0
            if not doubtful or await self._answers(body):
                return OWN_FAULT[error.whose](error.fault)
        hint = {
            Blame.KEY: "; check the key in the variable that engine.http.key_variable names",
            Blame.UNPAID: "; what is finished is on disk, run the same command again once it is paid",
            Blame.CONFIG: "; check engine.http.url (it ends in /v1), engine.http.served and engine.http.api "
            "(completions: token ids, chat: text)",
        }.get(error.whose, "")
        return BadInputError(f"{self._settings.url} {error.fault}{hint}")

    async def _given_up(self, body: dict[str, Any] | None, began: float, fault: str, broken: bool) -> Exception:
        """What to raise for a request that failed until its deadline, or got no reply (broken)."""
        others = self._answered_at is not None and self._answered_at >= began
        if body is not None and (others or await self._answers(body, began)):
            return NoReplyError(f"{self._settings.url} fails under this request, last {fault}")
        if broken and self._answered_at is None:
            return BadInputError(f"{self._settings.url} is no OpenAI-compatible server: {fault}")
        waited = "gives no replies any more" if broken else f"failed for {self._settings.deadline_s:g} s"
        return ServerError(
            f"{self._settings.url} {waited}, last {fault}; what is finished is on disk, run the same command later"
        )

    async def _answers(self, like: dict[str, Any], began: float = 0.0) -> bool:
        """Does the server answer a short question under the same settings? Asked once, and by one at a time."""
        async with self._probing:
            if self._answered_at is not None and self._answered_at >= began and not self._refusals:
                return True  # somebody was answered meanwhile
            said = [Message(role="user", content=PROBE)]
            short = {"messages": [{"role": "user", "content": PROBE}]}
            own = short if "messages" in like else {"prompt": self._renderer.prompt(said)}
            path = "chat/completions" if "messages" in like else "completions"
            try:
                value, _, _ = await self._once("POST", path, {**like, **own}, FIRST_WAIT_S)
            except (BrokenError, RefusalError):
                return False
            return value is not None

    async def _take_turn(self) -> None:
        """Keep requests_per_minute: each request has its own moment, equally spaced."""
        if self._settings.requests_per_minute:
            at = max(self._now(), self._next)
            self._next = at + 60 / self._settings.requests_per_minute
            if at > self._now():
                await self._sleep(at - self._now())

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _logprobs(choice: dict[str, Any]) -> list[float] | None:
    """In nats, of either API's shape; None where there are none, or one of them is none (NaN, infinite, a word)."""
    given = choice.get("logprobs")
    if not isinstance(given, dict):
        return None
    content = given.get("content")
    if isinstance(content, list) and content:
        values = [token.get("logprob") if isinstance(token, dict) else None for token in content]
    else:
        listed = given.get("token_logprobs")
        values = listed if isinstance(listed, list) else []
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values) and all(math.isfinite(value) and value < ROUNDING for value in numbers):
        return [min(float(value), 0.0) for value in numbers]
    warn_once("the server's log-probabilities are not all numbers of at most 0: those replies have none")
    return None


def _object(body: bytes) -> dict[str, Any] | None:
    """The JSON object that came, or None if something else did. NaN and Infinity may stand beside a reply."""
    try:
        value = json.loads(body.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _retry_after(headers: httpx.Headers, otherwise: float) -> float:
    """Seconds to wait by Retry-After (seconds or a date), else `otherwise`; never less than the first wait."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value) if value.strip().isdigit() else _until(value)
    except (ValueError, OverflowError):  # neither seconds nor a date
        return otherwise
    return max(FIRST_WAIT_S, seconds)


def _until(date: str) -> float:
    """Seconds from now to an HTTP date. Raises ValueError."""
    return email.utils.parsedate_to_datetime(date).timestamp() - time.time()
