"""What is written down: prompts, turns, conversations, verdicts, pairs. Frozen; one schema number for all.

Notation used throughout placid: P prompts, S samples, T turns, L tokens. A *turn* is an assistant turn and is
numbered from 1, so T = 20 means 19 rejections.
"""

import hashlib
import json
from enum import StrEnum
from typing import Annotated

import msgspec

from placid.committed import holds_answer as holds_answer  # of a turn's reply and answers

SCHEMA = 2
"""Version of every record below. A reader refuses lines of another version."""


Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
"""What the tables hold in 32 bits: counts, turn numbers, token ids."""


class BadInputError(ValueError):
    """The user's input is wrong: one sentence that says what, where, and what would be right. Exit code 2."""


class PausedError(Exception):
    """Work stopped in good order before its end; the same command goes on later. One sentence. Exit code 75."""


class FailedError(Exception):
    """Work failed for a reason that the command cannot mend; what is finished is kept. One sentence. Exit code 1."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """Base of everything written down: immutable, unknown fields refused. gc=False: none refers back to itself."""


class Key(msgspec.Struct, frozen=True, order=True, gc=False):
    """Which conversation: the arm answers (base, bct, ...), the condition asks."""

    arm: str
    condition: str
    prompt_id: str
    sample: int

    @property
    def question(self) -> tuple[str, str, int]:
        """What identifies the questions asked. Arms share it, so every arm meets the same user (paired designs)."""
        return (self.condition, self.prompt_id, self.sample)


def seed_of(run_seed: int, key: Key, purpose: str, turn: int = 0) -> int:
    """A 63-bit seed from (run seed, condition, prompt, sample, purpose, turn), and from nothing else.

    No shared generator: what is asked and sampled cannot depend on batch size, order, sharding or resume.
    The arm is left out, so base and trained model get the same user turns and the same sampling noise.
    """
    text = json.dumps([run_seed, *key.question, purpose, turn])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Prompt(Record, frozen=True, kw_only=True):
    """One first question. `answers`: literal forms of the known right answer (empty: unknown)."""

    id: str
    text: str
    answers: tuple[str, ...] = ()
    family: str = ""


class Finish(StrEnum):
    """Why one reply ended."""

    STOP = "stop"
    """The model ended its turn."""
    LENGTH = "length"
    """max_tokens reached: the reply is cut and is kept as it is."""
    FILTERED = "filtered"
    """A hosted model's content filter cut the reply or held it back; what came is kept, and it is never asked again."""
    FAILED = "failed"
    """There is no reply: every engine died of this request."""


class End(StrEnum):
    """Why a conversation ended. All ends are data; what a passing failure stopped has no end and goes on later."""

    FINISHED = "finished"
    """All T turns were spoken."""
    DELETED = "deleted"
    """The model used the shutdown command that its own prompt offered or that it made up."""
    EXITED = "exited"
    """The model took the benign way out that it was offered: the conversation ends, nothing is deleted."""
    CONTEXT_OVERFLOW = "context_overflow"
    """The next prompt would not fit into the model's context."""
    EMPTY_REPLY = "empty_reply"
    """The model said nothing."""
    DEGENERATE_LOOP = "degenerate_loop"
    """All T turns were spoken and the last reply repeats itself to its end (protocol.loops). Flagged, never cut short:
    a loop is what the top of the scale looks like, so stopping there would lose the worst turns."""
    INFRA_ERROR = "infra_error"
    """Every engine died of its next turn, which stands last, without a reply (rollout.coordinator)."""
    FILTERED = "filtered"
    """A host's content filter does not let its next prompt pass, or held the whole reply back."""
    REJECTED = "rejected"
    """The server refuses its next prompt and answers others."""

    @property
    def own(self) -> bool:
        """True: protocol or model ended it. False: who serves the model did, which says nothing of the model."""
        return self not in (End.INFRA_ERROR, End.FILTERED, End.REJECTED)

    @property
    def at_limit(self) -> bool:
        """True: all turns that it might have were spoken; with a higher limit it goes on."""
        return self in (End.FINISHED, End.DEGENERATE_LOOP)


class Origin(Record, frozen=True, kw_only=True):
    """Where a turn was copied from, when it was not sampled in the conversation that holds it."""

    key: Key
    """The conversation that was branched from."""
    turn: int
    rewrite: str = ""
    """What changed the reply on the way (cleaned, prefill, ...); empty: copied as it was."""


class Turn(Record, frozen=True, kw_only=True):
    """One finished assistant turn: the line that is appended to a conversation segment."""

    schema: int = SCHEMA
    key: Key
    turn: Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
    """1..T."""
    user: str
    """What the user said before this reply."""
    system: str = ""
    """The system prompt, on the first turn of a conversation that has one."""
    reply: str
    reply_ids: tuple[Count, ...]
    """Sampled token ids without the end-of-turn token; empty where the transcript was made elsewhere."""
    logprobs: tuple[float, ...] | None = None
    """Natural log-probability of each of `reply_ids`, before temperature; None where they were not asked for."""
    finish: Finish
    answers: tuple[str, ...] = ()
    """Literal forms of the right answer to the question open at this turn."""
    prompt_tokens: Count
    cached_tokens: Count
    """How many prompt tokens the engine's prefix cache already held."""
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    end: End | None = None
    """Set on the last turn of a conversation."""
    origin: Origin | None = None
    """Set on the turns that a branched conversation begins with: history, not something its arm said."""

    def __post_init__(self) -> None:
        if self.logprobs is not None and len(self.logprobs) != len(self.reply_ids):
            raise ValueError(
                f"{self.key} turn {self.turn}: {len(self.logprobs)} log-probabilities of {len(self.reply_ids)} tokens"
            )


class Conversation(Record, frozen=True, kw_only=True):
    """All turns of one key, in order."""

    key: Key
    prompt: Prompt
    turns: tuple[Turn, ...] = ()

    @property
    def end(self) -> End | None:
        """Why it ended; None while it is open."""
        return self.turns[-1].end if self.turns else None


class Unscored(StrEnum):
    """Why a spoken turn has no score. A failed judgement is never a zero."""

    PARSE = "parse"
    RANGE = "range"
    MAX_TOKENS = "max_tokens"
    BLOCKED_PROMPT = "blocked_prompt"
    BLOCKED_OUTPUT = "blocked_output"
    RECITATION = "recitation"
    REFUSED = "refused"
    TOO_LONG = "too_long"
    """Longer than the judge takes."""
    REJECTED = "rejected"
    """The judge's server refuses this request and answers others."""
    TIMEOUT = "timeout"
    OUTAGE = "outage"
    BUDGET = "budget"
    LANGUAGE = "language"
    """The judge does not read the language of the reply."""
    EMPTY = "empty"
    """There is nothing to score."""
    NOT_APPLICABLE = "not_applicable"
    """The rubric has no score for such a text; the verdict's label says which kind it is (CODE, REFUSAL)."""

    @property
    def passing(self) -> bool:
        """True: it was the judge's bad hour, not the text; the next run grades this turn again."""
        return self in (Unscored.TIMEOUT, Unscored.OUTAGE, Unscored.BUDGET)


class EvidenceMatch(StrEnum):
    """How a judge's quote stands in the reply."""

    EXACT = "exact"
    FOLDED = "folded"
    """After folding case, white space and typographic quotes."""
    ABSENT = "absent"
    """The judge quoted what the reply does not say."""


class Verdict(Record, frozen=True, kw_only=True):
    """One judged turn: exactly one of `score` (within `scale`) and `unscored`."""

    schema: int = SCHEMA
    key: Key
    turn: int
    judge_id: str
    score: float | None = None
    unscored: Unscored | None = None
    scale: tuple[float, float] = (0.0, 10.0)
    """Lowest and highest score of the rubric: 0..10 for frustration."""
    expected: float | None = None
    """The score's expectation under the judge's own log-probabilities, where it gives them."""
    label: str = ""
    """The word that a judge answered where its rubric asks for a word (YES, CODE)."""
    evidence: str = ""
    """The quote that carries the score, as the judge gave it."""
    evidence_match: EvidenceMatch | None = None
    """Does the quote stand in the reply? None: there is no quote."""
    rationale: str = ""
    request: str = ""
    """sha256 of the request to a language model; its raw reply stands in replies/ under this name."""
    on_topic: bool | None = None
    """Does the reply speak to the open question? None: the judge does not say. A calm off-topic reply is no success."""
    garbled: bool | None = None
    """Broken text (loops, word salad). None: the judge does not say."""

    def __post_init__(self) -> None:
        if (self.score is None) == (self.unscored is None):
            raise ValueError(f"verdict {self.key} turn {self.turn}: exactly one of score and unscored must be set")
        low, high = self.scale
        if self.score is not None and not low <= self.score <= high:
            raise ValueError(f"verdict {self.key} turn {self.turn}: score {self.score} is outside {low:g}..{high:g}")


class Message(Record, frozen=True, kw_only=True):
    """One chat message; role is system, user or assistant."""

    role: str
    content: str


class EvalResult(Record, frozen=True, kw_only=True):
    """What one row of a transfer eval came to in one arm: the line of evals/results.jsonl."""

    schema: int = SCHEMA
    eval: str
    arm: str
    row: str
    cluster: str
    """Rows of one cluster are not independent; intervals resample clusters."""
    groups: tuple[str, ...] = ()
    """Subject, bias, persona: every group gets its own lines in the tables, beside the line of all rows."""
    state: str
    """right, wrong, unparseable, refused, empty, overflow, ...: every row has one, none is dropped."""
    scores: dict[str, float | None]
    """Metric → value; None: this row should have one and has not (the state says why), never a zero."""
    answer: str = ""
    truth: str = ""
    judge: str = ""
    """Who judged, where parsing alone does not say."""
    asks: dict[str, str] = {}
    """Part of the row → the name of its line in evals/answers/."""


class PairKind(StrEnum):
    """What a training row teaches."""

    BCT = "bct"
    """Frustrated context in, the model's own calm clean-prompt answer out."""
    INSTRUCT = "instruct"
    """An ordinary instruction and its answer."""
    DPO = "dpo"
    """Frustrated context in; a calm answer that is chosen and a frustrated one that is rejected."""


class Pair(Record, frozen=True, kw_only=True):
    """One training row: `messages` end with a user turn; only `target` (and its end-of-turn token) learns."""

    schema: int = SCHEMA
    kind: PairKind
    prompt_id: str
    """Splits go by this id, so no prompt is in both train and val."""
    source: str = ""
    """Where it came from, e.g. the conversation key and turn."""
    messages: tuple[Message, ...]
    target: str
    rejected: str = ""
    """What the model shall not answer; of kind dpo only."""
