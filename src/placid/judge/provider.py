"""Who answers a language-model judge's request: one method, one closed set of outcomes."""

from typing import Any, Protocol

from placid.judge.settings import LimitSettings
from placid.records import BadInputError, Record, Unscored


class Ask(Record, frozen=True, kw_only=True):
    """One request, complete: its canonical JSON is what a recorded reply is found by."""

    prompt: str
    schema: dict[str, Any] | None
    """JSON schema of the answer; None: plain text."""
    max_tokens: int
    score: str = ""
    """The field of the answer that is the score, where it is one field."""
    turns: tuple[int, ...] = ()
    """The numbers of the turns that want an entry, where the answer has one entry a turn."""


class Answer(Record, frozen=True, kw_only=True):
    """What a model said, or why it said nothing. `text` is not yet read: that is the rubric's business."""

    text: str = ""
    unscored: Unscored | None = None
    """max_tokens, blocked_prompt, blocked_output, recitation, refused, parse (nothing in it that could be read: it is
    asked for again); None: a whole answer."""
    why: str = ""
    """The provider's own word for it (SAFETY, MAX_TOKENS)."""
    model_version: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    """Answer and thoughts: both are billed as output."""
    tier: str = ""
    """The service tier that the provider says it served, where there are several."""
    estimated: bool = False
    """The provider did not say how many tokens it were: they are our own estimate."""
    expected: tuple[float, ...] = ()
    """The score's expectation under the model's log-probabilities, one an entry, where a provider has them."""


class PassingError(Exception):
    """The request may succeed a moment later: refused for now (429), a server error, a lost connection, no answer."""

    def __init__(
        self, kind: Unscored, why: str, wait_s: float | None = None, refused: bool = False, said: str = ""
    ) -> None:
        """kind: what the turn becomes if retries do not help (timeout, outage). wait_s: as the server asked.
        refused: over quota (429), so fewer requests should be open. said: the server's own sentence."""
        super().__init__(why)
        self.kind, self.why, self.wait_s, self.refused = kind, why, wait_s, refused
        self.told = f"{why}: {said}" if said else why


class RefusedError(Exception):
    """This one request was refused, at no cost, and will be whenever it is asked."""

    def __init__(self, state: Unscored, why: str) -> None:
        """state: what the turn becomes (too_long, blocked_prompt, rejected)."""
        super().__init__(why)
        self.state, self.why = state, why


class DayUsedUpError(Exception):
    """The daily quota is used up; nothing can be asked until it is renewed."""


class JudgeStopError(BadInputError):
    """No request can succeed: a wrong key, a withdrawn model, another model version, an unpaid account. One sentence,
    exit 2."""


class OtherModelError(JudgeStopError):
    """Another model answered than the one asked: its answer costs money and grades nothing."""

    def __init__(self, why: str, answer: Answer) -> None:
        """answer: as it came, for the ledger."""
        super().__init__(why)
        self.answer = answer


class Provider(Protocol):
    """Who answers."""

    name: str
    limits: LimitSettings
    """How fast it may be asked."""

    def identity(self) -> dict[str, object]:
        """Everything but the rubric that can change an answer; enters the judge's id and judge.json."""
        ...

    def usd(self, answer: Answer) -> float:
        """What this answer cost."""
        ...

    async def ask(self, request: Ask) -> Answer:
        """Raises PassingError, RefusedError, DayUsedUpError or JudgeStopError."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...
