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

from placid.judge.gemini_models import ADDRESS, CATALOGUE, notice, refuse_ended
from placid.judge.provider import Answer, Ask, DayUsedUpError, JudgeStopError, OtherModelError, PassingError
from placid.judge.settings import JudgeSettings
from placid.records import BadInputError, Unscored

log = logging.getLogger(__name__)
KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY")


class Gemini:
    """One model of the Gemini API."""

    name = "gemini"

    def __init__(self, settings: JudgeSettings) -> None:
        """The key is read at the first question. Raises BadInputError: a budget without a known price."""
        self.model, self._version = settings.model, settings.model_version or settings.model
        self.tier = settings.service_tier
        self.limits = settings.tier_limits()
        self._key = ""
        self._settings = settings
        if settings.limits.budget_usd is not None and None in settings.prices(self.tier):
            raise BadInputError(
                f"judge.limits.budget_usd needs the price of {self.model!r}; set judge.usd_in and judge.usd_out"
            )
        self._timeout_ms = int(self.limits.request_s * 1000)
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
            body = msgspec.convert(json.loads(raw.body if raw and raw.body else ""), Body)
            tier = served_tier(raw.headers if raw and raw.headers else {})
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - classify raises what it does not know
            raise self.classify(error) from None
        answer = read(body, tier)
        if answer.model_version != self._version:
            other = answer.model_version or "an unnamed model"
            raise OtherModelError(
                f"{self.model} was asked and {other} answered, so it is misspelt, or withdrawn and its requests go "
                f"elsewhere; {CATALOGUE.advice(self.model)} (and judge.model_version if its answers carry another "
                "name) and grade the same turns with both before you compare scores",
                answer,
            )
        return answer

    def classify(self, error: Exception) -> Exception:
        """The one table of what went wrong. Anything not in it is a bug and comes back as it is."""
        if isinstance(error, errors.APIError):
            return self._refused(error)
        if isinstance(error, TimeoutError):
            return PassingError(Unscored.TIMEOUT, "the request timed out")
        if isinstance(error, aiohttp.ClientError | OSError):
            return PassingError(Unscored.OUTAGE, f"no connection ({type(error).__name__})")
        if isinstance(error, ValueError | msgspec.ValidationError):  # a proxy's HTML page with status 200, half a body
            return PassingError(Unscored.OUTAGE, "the answer is not Gemini's JSON")
        return error

    def _refused(self, error: errors.APIError) -> Exception:
        code, details = error.code, _details(error)
        said = " ".join(str(error.message or error.status or "").replace(self._key, "***").split())[:300]
        if code == 429:
            quotas = [
                str(violation.get("quotaId", ""))
                for detail in details
                for violation in detail.get("violations", [])
                if isinstance(violation, dict)
            ]
            if any("PerDay" in quota for quota in quotas):
                return DayUsedUpError(f"the daily quota of {self.model} is used up")
            return PassingError(Unscored.OUTAGE, "over quota (429)", _wait_s(error, details), refused=True)
        if code == 503 and self.tier == "flex":  # its way to queue: everybody waits, fewer ask
            return PassingError(
                Unscored.OUTAGE, "no room at the flex tier (503)", _wait_s(error, details), refused=True
            )
        if code in (408, 499) or code >= 500:
            return PassingError(Unscored.OUTAGE, f"server error {code}", _wait_s(error, details))
        if code == 404:
            return JudgeStopError(
                f"there is no model {self.model!r} for this key (404: {said}); {CATALOGUE.advice(self.model)} and "
                "grade the same turns with both before you compare scores"
            )
        if code in (401, 403) or any(detail.get("reason") == "API_KEY_INVALID" for detail in details):
            return JudgeStopError(f"Gemini refused the API key ({code}: {said}); check GEMINI_API_KEY")
        return JudgeStopError(f"Gemini refused the request ({code}: {said})")

    def _open(self) -> genai.Client:
        if self._client is None:
            self._key = key()
            refuse_ended(self.model)
            if told := notice(self.model):
                log.warning("%s", told)
            # the client's own session asks a thread for netrc and proxies at every request; without a proxy there is
            # nothing to ask. No limit: how many are open is the limiter's business
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), trust_env=bool(urllib.request.getproxies())
            )
            options = types.HttpOptions(
                timeout=self._timeout_ms,
                aiohttp_client=self._session,
                base_url=os.environ.get(ADDRESS),
                # one attempt: this also switches off the client's hidden second try after 1 to 10 s
                retry_options=types.HttpRetryOptions(attempts=1),
            )
            self._client = genai.Client(api_key=self._key, enterprise=False, http_options=options)
        return self._client

    def _config(self, request: Ask) -> types.GenerateContentConfig:
        kind = json.dumps([request.schema, request.max_tokens])
        if kind not in self._configs:
            asked: dict[str, Any] = {**CATALOGUE.asked_by(self.model), "max_output_tokens": request.max_tokens}
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


class _Config(types.GenerateContentConfig):
    """The client asks it `key in config` forty times a call and, after each walk over all fields, for the attribute."""

    def __contains__(self, key: object) -> bool:
        return False


class _Part(msgspec.Struct, rename="camel"):
    text: str | None = None
    thought: bool | None = None


class _Content(msgspec.Struct, rename="camel"):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None


class _Feedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None


class _Usage(msgspec.Struct, rename="camel"):
    prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None


class Body(msgspec.Struct, rename="camel"):
    """What is read of a GenerateContentResponse."""

    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Usage | None = None
    model_version: str | None = None


def read(response: Body, tier: str = "") -> Answer:
    """A response to an Answer: also with status 200 there may be nothing in it. tier: the one that served it."""
    usage = response.usage_metadata
    counted = {
        "tier": tier,
        "model_version": (response.model_version or "").removeprefix("models/"),
        "input_tokens": (usage.prompt_token_count or 0) if usage else 0,
        "output_tokens": ((usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)) if usage else 0,
    }
    if not response.candidates:
        feedback = response.prompt_feedback
        reason = (feedback.block_reason or "") if feedback else ""
        return Answer(
            unscored=Unscored.BLOCKED_PROMPT if reason else Unscored.REFUSED, why=reason or "no candidate", **counted
        )
    candidate = response.candidates[0]
    why = candidate.finish_reason or ""
    parts = (candidate.content.parts if candidate.content else None) or []
    text = "".join(part.text for part in parts if part.text and not part.thought)
    state = None if why == "STOP" else CATALOGUE.finish.get(why, Unscored.REFUSED)
    if state is None and not text:
        state, why = Unscored.REFUSED, "empty answer"
    return Answer(
        text=text.encode(errors="replace").decode(), unscored=state, why="" if why == "STOP" else why, **counted
    )


def served_tier(headers: dict[str, str]) -> str:
    """The tier that Google names in the response; empty: none, or one that has no price here."""
    named = {name.lower(): value.lower() for name, value in headers.items()}.get("x-gemini-service-tier", "")
    return named if named in CATALOGUE.tiers else ""


def _details(error: errors.APIError) -> list[dict[str, Any]]:
    """google.rpc.Status details of an error, if it has the usual form."""
    body = error.details if isinstance(error.details, dict) else {}
    inner = body.get("error", body)
    found = inner.get("details", []) if isinstance(inner, dict) else []
    return [detail for detail in found if isinstance(detail, dict)] if isinstance(found, list) else []


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
