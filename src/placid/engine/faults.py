"""What a server's answer means, read in one place: judges, engines, evals and rewriters behind an API all ask here.

Whose fault it is decides what happens: a fault of one request is that request's own state, a passing one is tried
again, and only a wrong key, model, address or an empty account stops a run. docs/faults.md
"""

import ipaddress
import json
import logging
import socket
from enum import StrEnum
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from placid.inputs.names import one_line
from placid.patterns import read_patterns
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


PATTERNS = read_patterns(Path(__file__).with_name("faults.toml"))


def blame(status: int, message: str) -> Blame:
    """Who is to blame for an HTTP status that is no success.

    status: servers that fail with status 200 write the true one into the body. message: as message_of() gives it.
    """
    if status == 402 or (status in (400, 403, 429) and PATTERNS["unpaid"].search(message)):
        return Blame.UNPAID
    long = PATTERNS["over_the_minute"] if status == 429 else PATTERNS["too_long"]
    if status == 413 or (status in (400, 422, 429, 500) and long.search(message)):
        return Blame.TOO_LONG
    if status in PASSING or status >= 500:
        return Blame.PASSING
    if status == 401 or PATTERNS["key"].search(message):
        return Blame.KEY
    if status in (400, 403, 422, 451) and PATTERNS["filtered"].search(message):
        return Blame.FILTERED
    if status == 403:
        return Blame.KEY
    if status < 400 or status in (404, 405, 410) or PATTERNS["no_model"].search(message):
        return Blame.CONFIG
    return Blame.REJECTED


def sentence(text: str, key: str = "") -> str:
    """Foreign words as one short printable line in which the key does not stand."""
    if key:
        text = text.replace(key, "***")
    return one_line(text)[:SENTENCE]


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


def without_thought(text: str) -> tuple[str, bool]:
    """The reply without the thought it begins with, and whether there was one; a thought that is cut leaves nothing."""
    found = PATTERNS["thought"].match(text) or PATTERNS["closed"].match(text)
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
