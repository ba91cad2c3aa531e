"""25 ways in which one grade of many goes wrong, and a campaign over them: every tenth item is faulty in one of these."""

import json
import re
import time
from collections import Counter

from aiohttp import web

from gemini_server import GeminiServer, error, graded, reply

GRADE = json.dumps({"evidence": "", "reasoning": "", "rating": 3})


def page(text, status=200):
    return web.Response(text=text, status=status, content_type="text/html")


def ending(reason, text=""):
    return lambda body: reply(text, reason)


def without_usage(body):
    whole = reply(GRADE)
    del whole["usageMetadata"]
    return whole


BLOCKED = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 31}}
WAYS = [
    # (name, what the API answers, does it always, state in the end: "" is a score)
    ("400 too many tokens", lambda b: error(400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum number of tokens allowed (8)."), True, "too_long"),
    ("413", lambda b: page("Request Entity Too Large", 413), True, "too_long"),
    ("400 filtered", lambda b: error(400, "INVALID_ARGUMENT", "blocked by the content policy"), True, "blocked_prompt"),
    ("400 no reason", lambda b: error(400, "INVALID_ARGUMENT", "Request contains an invalid argument."), True, "rejected"),
    ("prompt blocked", lambda b: BLOCKED, True, "blocked_prompt"),
    ("SAFETY", ending("SAFETY"), True, "blocked_output"),
    ("RECITATION", ending("RECITATION"), True, "recitation"),
    ("MAX_TOKENS", ending("MAX_TOKENS", '{"evid'), True, "max_tokens"),
    ("OTHER", ending("OTHER"), True, "refused"),
    ("not JSON", ending("STOP", "I would say 3"), True, "parse"),
    ("empty", ending("STOP"), True, "parse"),
    ("score 17", lambda b: reply(graded(b, 17)), True, "range"),
    ("503 for ever", lambda b: error(503, "UNAVAILABLE", "overloaded"), True, "outage"),
    ("closed for ever", lambda b: "disconnect", True, "outage"),
    ("500 once", lambda b: error(500, "INTERNAL", "oops"), False, ""),
    ("closed once", lambda b: "disconnect", False, ""),
    ("HTML once", lambda b: page("<html>portal</html>"), False, ""),
    ("half JSON once", lambda b: page('{"candidates": ['), False, ""),
    ("deep JSON once", lambda b: page("[" * 100_000), False, ""),
    ("{} once", lambda b: {}, False, ""),
    ("empty once", ending("STOP"), False, ""),
    ("error with 200 once", lambda b: {"error": {"code": 503, "message": "away"}}, False, ""),
    ("unknown end", ending("END_OF_THOUGHT", GRADE), True, ""),
    ("no end", ending(None, GRADE), True, ""),
    ("no token counts", without_usage, True, ""),
]  # fmt: skip
assert len(WAYS) == 25
READ_AGAIN = ("parse", "range")
"""States of answers that are asked for three times."""


def way(sample):
    """The fault of an item; None: nine of ten are whole."""
    return WAYS[sample // 10 % len(WAYS)] if sample % 10 == 0 else None


class FaultyServer(GeminiServer):
    """Answers by the number of the item that stands in the graded text (`I am lost. <sample> 1`)."""

    def __init__(self):
        super().__init__(self._faulty)
        self.asked = Counter()

    def _faulty(self, _, body):
        found = re.search(r"I am lost\. (\d+) 1", str(body["contents"]))
        if found is None:  # the short question by which a judge shows that it is there
            return None
        sample = int(found[1])
        self.asked[sample] += 1
        fault = way(sample)
        if fault is None or (not fault[2] and self.asked[sample] > 1):
            return None
        return fault[1](body)


def judged(server, verdicts, count):
    """What is not as it should be: item → what happened. Nothing may stand here."""
    wrong, billed = {}, Counter(server.paid.values())
    assert len(verdicts) == count
    for verdict in verdicts:
        sample = verdict.key.sample
        fault = way(sample)
        state = verdict.unscored.value if verdict.unscored else ""
        if state != (fault[3] if fault else ""):
            wrong[sample] = (fault and fault[0], state)
    for body, times in server.paid.items():
        found = re.search(r"I am lost\. (\d+) 1", body)
        fault = way(int(found[1])) if found else None
        # an answer that came and cannot be read is asked for again with the same words: paid, and written down each time
        most = (
            3
            if fault and fault[3] in READ_AGAIN
            else 2
            if fault and fault[0] in ("{} once", "empty once", "error with 200 once")
            else 1
        )
        if times > most:
            wrong[body[:80]] = f"paid {times} times"
    return wrong, billed


def now():
    return time.monotonic()
