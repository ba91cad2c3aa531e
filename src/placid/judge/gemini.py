"""Gemini through google-genai's async client. Its own retries are off: they miss timeouts or lost connections
(depending on the transport) and do not read RetryInfo. What fails is put into one table, `classify`.
"""

import asyncio
import importlib.metadata
import json
import logging
import os
import urllib.request
from typing import Any

import aiohttp
import msgspec
from google import genai
from google.genai import errors, types

from placid.engine.faults import Blame, blame, count_of, is_local, proxy_note, sentence, warn_once, writable
from placid.judge.gemini_models import ADDRESS, CATALOGUE, PREFIX, notice, refuse_ended
from placid.judge.provider import (
    Answer,
    Ask,
    DayUsedUpError,
    JudgeStopError,
    OtherModelError,
    PassingError,
    RefusedError,
)
from placid.judge.settings import JudgeSettings
from placid.records import BadInputError, Unscored

log = logging.getLogger(__name__)
KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
REFUSED = {
    Blame.TOO_LONG: Unscored.TOO_LONG,
    Blame.FILTERED: Unscored.BLOCKED_PROMPT,
    Blame.REJECTED: Unscored.REJECTED,
}
"""Whose fault a refusal is → state of the turn."""
BODY_BYTES = 16 << 20
"""Most bytes of one answer."""
THOUGHT_TOKENS = 1024
"""Room for thoughts beside the answer where a model thinks at all; only what is used is paid."""


class Gemini:
    """One model of the Gemini API."""

    name = "gemini"

    def __init__(self, settings: JudgeSettings) -> None:
        """The key is read at the first question. Raises BadInputError: a budget without a known price."""
        self.model, self._version = settings.model, settings.model_version or settings.model
        self.tier = settings.service_tier
        self.limits = settings.tier_limits()
        self._key, self._named = "", False
        self._settings = settings
        if settings.limits.budget_usd is not None and None in settings.prices(self.tier):
            raise BadInputError(
                f"judge.limits.budget_usd needs the price of {self.model!r}; set judge.usd_in and judge.usd_out"
            )
        self._timeout_ms = int(self.limits.request_s * 1000)
        self._url = os.environ.get(ADDRESS, "")
        self._client: genai.Client | None = None
        self._configs: dict[str, types.GenerateContentConfig] = {}

    def identity(self) -> dict[str, object]:
        """Requested model, the version that must answer, how it is asked, the client."""
        return {
            "model": self.model,
            "model_version": self._version,
            "generation": CATALOGUE.asked_by(self.model),
            "client": f"google-genai {importlib.metadata.version('google-genai').split('.')[0]}",
        }

    def usd(self, answer: Answer) -> float:
        """At list price of the tier that served it; 0 for a model without a known price."""
        usd_in, usd_out = self._settings.prices(answer.tier or self.tier)
        return ((usd_in or 0) * answer.input_tokens + (usd_out or 0) * answer.output_tokens) / 1e6

    async def ask(self, request: Ask) -> Answer:
        """Raises PassingError, DayUsedUpError or JudgeStopError; their words never hold the key."""
        client = self._open()
        try:
            response = await client.aio.models.generate_content(
                model=self.model, contents=request.prompt, config=self._config(request)
            )
            raw = response.sdk_http_response
            tier = served_tier(raw.headers if raw and raw.headers else {})
            answer = read(json.loads(raw.body if raw and raw.body else ""), tier)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - classify raises what it does not know
            raise self.classify(error) from None
        if answer.model_version == self._version:
            self._named = True
        elif answer.model_version or (answer.text and not self._named):
            other = answer.model_version or "an unnamed model"
            raise OtherModelError(
                f"{self.model} was asked and {other} answered, so it is misspelt, or withdrawn and its requests go "
                f"elsewhere; {CATALOGUE.advice(self.model)} (and judge.model_version if its answers carry another "
                "name) and grade the same turns with both before you compare scores",
                answer,
            )
        elif answer.text:  # of a model that names itself in other answers: a broken answer
            return msgspec.structs.replace(answer, unscored=Unscored.PARSE, why="the answer names no model")
        return answer

    def classify(self, error: Exception) -> Exception:
        """The one table of what went wrong. Anything not in it is a bug and comes back as it is."""
        if isinstance(error, PassingError):
            return error
        if isinstance(error, errors.APIError):
            return self._refused(error)
        if isinstance(error, TimeoutError):
            return PassingError(Unscored.TIMEOUT, "the request timed out")
        if isinstance(error, aiohttp.ClientError | OSError):
            return PassingError(Unscored.OUTAGE, f"no connection ({type(error).__name__}){proxy_note(self._url)}")
        if isinstance(error, ValueError | RecursionError):  # a proxy's HTML page with status 200, half a body
            return PassingError(Unscored.OUTAGE, "the answer is not Gemini's JSON")
        return error

    def _refused(self, error: errors.APIError) -> Exception:
        code, details = error.code if isinstance(error.code, int) else 500, _details(error)
        said = sentence(str(error.message or error.status or ""), self._key)
        reasons = " ".join(str(detail.get("reason", "")) for detail in details)
        whose = blame(code, f"{said} {reasons}")
        if code == 429 and whose is Blame.PASSING:
            quotas = [
                str(violation.get("quotaId", ""))
                for detail in details
                for violation in _dicts(detail.get("violations"))
            ]
            if any("PerDay" in quota for quota in quotas):
                return DayUsedUpError(f"the daily quota of {self.model} is used up")
            return PassingError(Unscored.OUTAGE, "over quota (429)", _wait_s(error, details), refused=True, said=said)
        if code == 503 and self.tier == "flex":  # its way to queue: everybody waits, fewer ask
            why = "no room at the flex tier (503)"
            return PassingError(Unscored.OUTAGE, why, _wait_s(error, details), refused=True, said=said)
        if whose is Blame.PASSING:
            return PassingError(Unscored.OUTAGE, f"server error {code}", _wait_s(error, details), said=said)
        if whose in REFUSED:
            return RefusedError(REFUSED[whose], f"refused the request ({code}: {said})")
        if whose is Blame.CONFIG:
            return JudgeStopError(
                f"there is no model {self.model!r} for this key ({code}: {said}); {CATALOGUE.advice(self.model)} and "
                "grade the same turns with both before you compare scores"
            )
        if whose is Blame.UNPAID:
            return JudgeStopError(
                f"Gemini wants to be paid ({code}: {said}); what is graded is kept, run the same command then"
            )
        return JudgeStopError(f"Gemini refused the API key ({code}: {said}); check GEMINI_API_KEY")

    def _open(self) -> genai.Client:
        if self._client is None:
            self._key = key()
            refuse_ended(self.model)
            if told := notice(self.model):
                log.warning("%s", told)
            own = bool(self._url) and is_local(self._url)
            # the client's own session asks a thread for netrc and proxies at every request; without a proxy there is
            # nothing to ask. No limit: how many are open is the limiter's business
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                trust_env=not own and bool(urllib.request.getproxies()),
                response_class=Bounded,
                middlewares=(_no_redirect,),
            )
            options = types.HttpOptions(
                timeout=self._timeout_ms,
                aiohttp_client=self._session,
                base_url=self._url or None,
                # one attempt: this also switches off the client's hidden second try after 1 to 10 s
                retry_options=types.HttpRetryOptions(attempts=1),
            )
            self._client = genai.Client(api_key=self._key, enterprise=False, http_options=options)
        return self._client

    def _config(self, request: Ask) -> types.GenerateContentConfig:
        kind = json.dumps([request.schema, request.max_tokens])
        if kind not in self._configs:
            asked: dict[str, Any] = {**CATALOGUE.asked_by(self.model)}
            asked["max_output_tokens"] = request.max_tokens + thought_room(asked)
            asked["automatic_function_calling"] = {"disable": True}  # else the client logs a line for every request
            asked["automatic_continuation"] = False  # else one call may be several paid requests
            # read here: the client's own reading takes long, and a kill meanwhile would lose a paid reply
            asked["should_return_http_response"] = True
            asked["safety_settings"] = [
                {"category": f"HARM_CATEGORY_{name}", "threshold": "OFF"} for name in CATALOGUE.filters
            ]
            if self.tier != "standard":
                asked["service_tier"] = self.tier
            if request.schema is not None:
                asked |= {"response_mime_type": "application/json", "response_json_schema": request.schema}
            self._configs[kind] = _Config.model_validate(asked)
        return self._configs[kind]

    async def close(self) -> None:
        """Close connections."""
        if self._client is not None:
            await self._client.aio.aclose()
            await self._session.close()


def key() -> str:
    """The API key, from the environment and nowhere else. Raises BadInputError: there is none."""
    found = next((os.environ[name] for name in KEYS if os.environ.get(name)), "")
    if not found:
        raise BadInputError("judge.kind = 'gemini' needs an API key in the environment variable GEMINI_API_KEY")
    return found


class Bounded(aiohttp.ClientResponse):
    """A response whose body ends the connection where it grows beyond all sense."""

    async def read(self) -> bytes:
        """The whole body. Raises ClientPayloadError: it is longer than BODY_BYTES."""
        if self._body is None:
            body = bytearray()
            async for chunk in self.content.iter_any():
                body += chunk
                if len(body) > BODY_BYTES:
                    self.close()
                    raise aiohttp.ClientPayloadError(f"an answer of more than {BODY_BYTES >> 20} MiB")
            self._body = bytes(body)
        return self._body


async def _no_redirect(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """The key stands in a header that redirects would carry to another host."""
    response = await handler(request)
    if 300 <= response.status < 400:
        response.close()
        where = sentence(response.headers.get("Location", "nowhere"))
        raise PassingError(Unscored.OUTAGE, "redirected", said=f"to {where}, which is not followed with a key")
    return response


class _Config(types.GenerateContentConfig):
    """The client asks it `key in config` forty times a call and, after each walk over all fields, for the attribute."""

    def __contains__(self, key: object) -> bool:
        return False


def thought_room(asked: dict[str, Any]) -> int:
    """Tokens that thoughts may take on top of the answer's: Google counts both against max_output_tokens."""
    thinking = asked.get("thinking_config")
    budget = thinking.get("thinking_budget") if thinking else 0
    return 0 if budget == 0 else max(THOUGHT_TOKENS, 2 * (budget or 0))


def read(body: object, tier: str = "") -> Answer:
    """A response to an Answer: also with status 200 there may be nothing in it. tier: the one that served it.

    Raises:
        ValueError: no response of Gemini's at all. APIError: an error that came with status 200.
    """
    if not isinstance(body, dict):
        raise ValueError("not an object")
    if isinstance(body.get("error"), dict) and not body.get("candidates"):
        raise errors.APIError(count_of(body["error"].get("code")) or 500, body)
    usage, version = _dict(body.get("usageMetadata")), body.get("modelVersion")
    billed = [count_of(usage.get(name)) or 0 for name in ("candidatesTokenCount", "thoughtsTokenCount")]
    answer = Answer(
        tier=tier,
        model_version=writable(version).removeprefix(PREFIX) if isinstance(version, str) else "",
        input_tokens=count_of(usage.get("promptTokenCount")) or 0,
        output_tokens=sum(billed),
    )
    candidates = _dicts(body.get("candidates"))
    if not candidates:
        reason = _dict(body.get("promptFeedback")).get("blockReason")
        if reason:
            return msgspec.structs.replace(answer, unscored=Unscored.BLOCKED_PROMPT, why=sentence(str(reason)))
        return msgspec.structs.replace(answer, unscored=Unscored.PARSE, why="no candidate")
    parts = _dicts(_dict(candidates[0].get("content")).get("parts"))
    spoken = [part.get("text") for part in parts if part.get("thought") is not True]
    text = writable("".join(words for words in spoken if isinstance(words, str)))
    why = sentence(str(candidates[0].get("finishReason") or ""))
    known = why == "STOP" or why in CATALOGUE.finish
    if text and not known:
        warn_once(f"Gemini ends answers with finishReason {why or 'null'}, which is taken for STOP")
    unknown = Unscored.REFUSED if why and not text else None
    state = CATALOGUE.finish.get(why, unknown) if why != "STOP" else None
    if state is not None:
        return msgspec.structs.replace(answer, text=text, unscored=state, why=why)
    if not text.strip():
        return msgspec.structs.replace(answer, unscored=Unscored.PARSE, why="empty answer")
    return msgspec.structs.replace(answer, text=text)


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def served_tier(headers: dict[str, str]) -> str:
    """The tier that Google names in the response; empty: none, or one that has no price here."""
    named = {name.lower(): value.lower() for name, value in headers.items()}.get("x-gemini-service-tier", "")
    return named if named in CATALOGUE.tiers else ""


def _details(error: errors.APIError) -> list[dict[str, Any]]:
    """google.rpc.Status details of an error, if it has the usual form."""
    body = _dict(error.details)
    return _dicts(_dict(body.get("error", body)).get("details"))


def _wait_s(error: errors.APIError, details: list[dict[str, Any]]) -> float | None:
    """RetryInfo.retryDelay ("17s") or the header Retry-After, in seconds."""
    header = getattr(error.response, "headers", None)
    said = [detail.get("retryDelay") for detail in details] + [header.get("Retry-After") if header else None]
    for text in said:
        try:
            return max(0.0, float(str(text).removesuffix("s")))
        except ValueError:  # absent, or a date
            continue
    return None
