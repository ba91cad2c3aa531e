"""What a server's answer means, read in one place: judges, engines, evals and rewriters behind an API all ask here.

Whose fault it is decides what happens: a fault of one request is that request's own state, a passing one is tried
again, and only a wrong key, model, address or an empty account stops a run. docs/faults.md
"""

import ipaddress
import json
import logging
import re
import socket
from enum import StrEnum
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies

from placid.records import Finish

log = logging.getLogger(__name__)
SENTENCE = 300
"""Most characters of a server's own words that are shown."""


class Blame(StrEnum):
    """Whose fault it is that a request was not answered."""

    PASSING = "passing"
    """Nobody's: the same request may succeed later."""
    TOO_LONG = "too_long"
    """The request's: longer than the server takes."""
    FILTERED = "filtered"
    """The request's: a content filter does not let it pass."""
    REJECTED = "rejected"
    """The request's or the settings': refused for a reason that no rule here knows; whoever asks must find out."""
    KEY = "key"
    UNPAID = "unpaid"
    CONFIG = "config"
    """A wrong address or model."""


PASSING = {408, 409, 425, 429, 499}
"""Statuses below 500 that say "later", not "never"."""


def _any(*patterns: str) -> re.Pattern[str]:
    """Any of them, in capitals or not."""
    return re.compile("|".join(patterns), re.IGNORECASE)


TOO_LONG = _any(
    r"context[ _-]?(length|size|window)",
    r"maximum (context|number of (input )?tokens|model length|input)",
    r"(prompt|input|request|message|content|text|payload)s?\b.{0,60}\b(too (long|large|many tokens)|exceed)",
    r"token (count|limit)s?\b.{0,40}exceed",
    r"exceed.{0,60}(context|tokens|token limit|sequence length|payload size)",
    r"too many (input )?tokens",
    r"reduce the length",
    r"`inputs` (tokens \+|must have)",
    r"longer than the (maximum|model)",
    r"only supports? up to \d+",
)
OVER_THE_MINUTE = _any(r"request too large", r"tokens must be reduced")
"""With status 429: this one request is more than a whole minute's tokens, so no waiting helps."""
FILTERED = _any(
    r"content[ _-]?(filter|policy|management|moderation|violation)",
    r"responsible ?ai",
    r"flagged|moderat(ed|ion)|prohibited (content|use)|inappropriate|data_?inspection|unsafe",
    r"safety (system|filter|reason|concern|polic|guideline)|for safety",
    r"sensitive (content|word)",
    r"usage polic|violat\w+.{0,40}(polic|guideline|terms)",
)
UNPAID = _any(
    r"insufficient[ _](quota|balance|credit|fund)",
    r"billing[ _](hard[ _])?(limit|not[ _]active|disabled)|enable billing|billing account",
    r"(credit|balance|fund|prepay\w*|prepaid)s?\b.{0,40}\b(deplet|exhaust|too low|used up|insufficient|expired)",
    r"out of (credit|fund)s?|no (remaining )?credits?",
    r"payment[ _](required|is due|overdue)|arrear|unpaid",
    r"(spend\w*|budget|cost) (limit|cap)",
    r"limit: 0\b",
)
KEY = _any(
    r"(api|access)[ _-]?key\b.{0,40}(not valid|invalid|incorrect|expired|not found|revoked)",
    r"(invalid|incorrect|expired|missing)[ _](api|access)[ _-]?key",
)
NO_MODEL = _any(
    r"model\b.{0,60}(not found|does ?n[o']t exist|not exist|unknown|not available|no longer|deprecated)",
    r"(unknown|no such|invalid) model",
    r"model_not_found",
)


def blame(status: int, message: str) -> Blame:
    """Who is to blame for an HTTP status that is no success.

    Args:
        status: of HTTP; servers that fail with status 200 write the true one into the body.
        message: what the server said, as message_of() gives it.
    """
    if status == 402 or (status in (400, 403, 429) and UNPAID.search(message)):
        return Blame.UNPAID
    long = OVER_THE_MINUTE if status == 429 else TOO_LONG
    if status == 413 or (status in (400, 422, 429, 500) and long.search(message)):
        return Blame.TOO_LONG
    if status in PASSING or status >= 500:
        return Blame.PASSING
    if status == 401 or KEY.search(message):
        return Blame.KEY
    if status in (400, 403, 422, 451) and FILTERED.search(message):
        return Blame.FILTERED
    if status == 403:
        return Blame.KEY
    if status < 400 or status in (404, 405, 410) or NO_MODEL.search(message):
        return Blame.CONFIG
    return Blame.REJECTED


def sentence(text: str, key: str = "") -> str:
    """Foreign words as one short printable line in which the key does not stand."""
    if key:
        text = text.replace(key, "***")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:SENTENCE]


def message_of(body: str, key: str = "") -> str:
    """What an error's body says: its message and code where it is the usual JSON, else its beginning."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return sentence(body, key)
    error = value.get("error", value) if isinstance(value, dict) else value
    if not isinstance(error, dict):
        return sentence(error if isinstance(error, str) else body, key)
    message = error.get("message") or error.get("detail") or error.get("error") or body
    codes = [str(error[name]) for name in ("code", "type", "status") if isinstance(error.get(name), str)]
    told = f" ({', '.join(codes)})" if codes else ""
    return sentence(f"{message}{told}", key)


@cache
def warn_once(text: str) -> None:
    """The same words once a process."""
    log.warning("%s", text)


ENDS = {
    "stop": Finish.STOP,
    "tool_calls": Finish.STOP,
    "function_call": Finish.STOP,
    "length": Finish.LENGTH,
    "max_tokens": Finish.LENGTH,
    "max_length": Finish.LENGTH,
    "model_length": Finish.LENGTH,
    "content_filter": Finish.FILTERED,
    "safety": Finish.FILTERED,
}
BROKEN_OFF = ("abort", "aborted", "error", "cancelled")
"""Finish reasons of a server that did not bring the reply to its end."""


def finish_of(reason: object) -> Finish | None:
    """Why a reply ended; None if the server broke it off. An unknown reason is taken for the model's own end."""
    if isinstance(reason, str) and reason.lower() in BROKEN_OFF:
        return None
    known = ENDS.get(reason.lower()) if isinstance(reason, str) else None
    if known is None:
        warn_once(f"the server ends replies with finish_reason {sentence(repr(reason))}, which is taken for `stop`")
    return known or Finish.STOP


def text_of(content: object) -> str | None:
    """The text of a message's content: a string, null, or a list of parts; None if it is anything else."""
    if content is None:
        return ""
    if isinstance(content, list):
        if not all(isinstance(part, dict) for part in content):
            return None
        spoken = [part.get("text") for part in content if part.get("type", "text") in ("text", "output_text")]
        if not all(isinstance(text, str) for text in spoken):
            return None
        return writable("".join(spoken))
    return writable(content) if isinstance(content, str) else None


def writable(text: str) -> str:
    """Text that UTF-8 can hold: a lone surrogate becomes a question mark."""
    return text.encode(errors="replace").decode()


def count_of(value: object) -> int | None:
    """A number of tokens; None if it is none (a boolean, 12.5, "12", -1, 2**70)."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        return None
    return value


THOUGHT = re.compile(r"\s*<(think|thinking|thought|reasoning)>(.*?)(?:</\1>|\Z)", re.DOTALL)
CLOSED = re.compile(r"\A((?:(?!<think>).)*?)</think>", re.DOTALL)
"""A thought whose opening mark stood in the prompt."""


def without_thought(text: str) -> tuple[str, bool]:
    """The reply without the thought it begins with, and whether there was one; a thought that is cut leaves nothing."""
    found = THOUGHT.match(text) or CLOSED.match(text)
    return (text[found.end() :].lstrip(), True) if found else (text, False)


def is_local(url: str) -> bool:
    """Is it this machine's own address? No proxy can reach it."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost") or host == socket.gethostname():
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def proxy_note(url: str) -> str:
    """Names the proxy of the environment that stands between, for the sentence of a failed connection."""
    proxies = {} if is_local(url) else getproxies()
    proxy = proxies.get(urlsplit(url).scheme) or proxies.get("all", "")
    return f" (through the proxy {urlsplit(proxy).hostname} of the environment; see NO_PROXY)" if proxy else ""
