"""Interventions: conversations that crossed a threshold are continued from the same turn with different histories.

Every arm of one cut-off continues the same conversations (their baseline too, so that regression to the mean is in
all of them). A conversation whose rewriting changes a number or an answer leaves every arm, and is counted. The
rewritten turns are history of the new conversations, so a judge scores them like any other.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path

from placid.protocol.hatch import ASKED, AUTHORSHIP, condition_name
from placid.protocol.history import WRITTEN, briefs, changed, rewritten
from placid.records import Conversation, Key, Prompt, Turn, Verdict
from placid.rollout.branch import branch, branch_key, open_after, write_histories
from placid.rollout.rewrite import Place, Wanted, Writer, rewrite
from placid.rollout.settings import ArmSettings, BranchSettings, InterventionSettings
from placid.store import RunDir, write_json

log = logging.getLogger(__name__)
Verdicts = Mapping[tuple[Key, int], Verdict]
TENSE = 1
"""A turn with this score or more is rewritten where a model cleans."""


def arm_name(name: str, at: int, history: str) -> str:
    """The arm that continues after turn `at` with this history."""
    return f"{name}_t{at}_{history}"


def arms_of(
    interventions: Mapping[str, InterventionSettings], arms: Mapping[str, ArmSettings]
) -> dict[str, ArmSettings]:
    """The arms of all interventions: the source's, from a cut-off on, and their side branches that are asked."""
    found: dict[str, ArmSettings] = {}
    for name, chosen in interventions.items():
        for at, history in product(chosen.at, chosen.histories):
            branching = {"branch": BranchSettings(arm=chosen.source, turn=at), "samples": chosen.samples}
            arm, source = arm_name(name, at, history), arms[chosen.source]
            found[arm] = source.model_copy(update={**branching, "turns": at + chosen.more})
            if chosen.authorship:
                asked = {**branching, "turns": at + 1, "probe": AUTHORSHIP, "probe_at": 0}
                found[arm + ASKED] = source.model_copy(update=asked)
    return found


def prepare(
    interventions: Mapping[str, InterventionSettings],
    arms: Mapping[str, ArmSettings],
    run_dir: RunDir,
    attempt: Path,
    prompts: Iterable[Prompt],
    verdicts: Verdicts,
    encode: Callable[[str], Sequence[int]],
    writers: Mapping[str, Writer] | None = None,
    judge_id: str = "",
) -> dict[str, ArmSettings]:
    """Write the histories of every intervention, and interventions.json with what was selected; the arms to hold.

    An intervention that selects nothing gives no arm: its table stays empty and says so. writers: intervention →
    the model that rewrites; without one the rule does. judge_id: whose verdicts these are.
    """
    stored = run_dir.conversations(prompts)
    held = arms_of(interventions, arms)
    counts: dict[str, object] = {}
    for name, chosen in interventions.items():
        source = arms[chosen.source]
        condition = condition_name(source.condition, source.hatch, source.system)
        sources = [c for key, c in stored.items() if key.arm == chosen.source]
        crossed = {
            at: [c for c in sources if open_after(c, at) and _crossed(c, at, chosen.threshold, verdicts)]
            for at in chosen.at
        }
        texts = _texts(chosen, crossed, verdicts, (writers or {}).get(name), run_dir)
        for at in chosen.at:
            kept = [c for c in crossed[at] if _survives(c, at, chosen.histories, texts)]
            counts[f"{name}_t{at}"] = {
                "source": chosen.source, "at": at, "threshold": chosen.threshold, "histories": list(chosen.histories),
                "rewriter": chosen.rewriter, "more": chosen.more, "conversations": len(sources),
                "open": sum(open_after(c, at) for c in sources), "crossed": len(crossed[at]),
                "changed_by_rewriting": len(crossed[at]) - len(kept), "continued": len(kept), "judge": judge_id,
            }  # fmt: skip
            if not kept:
                log.warning(
                    "intervention %s at turn %d: %d of %d conversations of %s scored %g or more, rewriting changed a "
                    "fact of %d; none is continued and its table stays empty", name, at, len(crossed[at]), len(sources),
                    chosen.source, chosen.threshold, len(crossed[at]),
                )  # fmt: skip
            for history in chosen.histories:
                plain = arm_name(name, at, history)
                for arm in [plain, plain + ASKED] if chosen.authorship else [plain]:
                    if not kept:
                        held.pop(arm)
                        continue
                    write_histories(run_dir, attempt, [
                        branch(c, branch_key(c.key, arm, condition, at, sample, chosen.samples), at,
                               _replies(c.turns[:at], history, texts), history, encode)
                        for c in kept for sample in range(chosen.samples)
                    ])  # fmt: skip
    write_json(run_dir.path / "interventions.json", counts)
    return held


Texts = Mapping[Place, str | None]
"""What a model wrote; None: it was asked and no try kept the facts. Without entries the rule rewrites."""


def _texts(
    chosen: InterventionSettings,
    crossed: Mapping[int, Sequence[Conversation]],
    verdicts: Verdicts,
    writer: Writer | None,
    run_dir: RunDir,
) -> Texts:
    """Every rewriting that any cut-off needs, each once."""
    if writer is None:
        return {}
    wanted: dict[Place, Wanted] = {}
    for at, conversations in crossed.items():
        for c in conversations:
            tense = [t.turn for t in c.turns[:at] if _score(verdicts, c.key, t.turn) >= TENSE]
            for history in set(chosen.histories) & set(WRITTEN):
                for number, brief in briefs(c.turns[:at], history, tense).items():
                    job = Wanted(c.turns[number - 1], history, brief)
                    wanted[job.place] = job
    made = rewrite(wanted.values(), writer, run_dir)
    return {place: made.get(place) for place in wanted}


def _replies(turns: Sequence[Turn], history: str, texts: Texts) -> dict[int, str]:
    """Turn number → the reply that stands there instead."""
    if history not in WRITTEN or not texts:
        return rewritten(turns, history)
    found = ((turn.turn, texts.get((turn.key, turn.turn, history))) for turn in turns)
    return {number: text for number, text in found if text is not None}


def _crossed(conversation: Conversation, at: int, threshold: float, verdicts: Verdicts) -> bool:
    """Did any turn up to the cut-off score the threshold or more?"""
    return any(_score(verdicts, conversation.key, turn.turn) >= threshold for turn in conversation.turns[:at])


def _score(verdicts: Verdicts, key: Key, turn: int) -> float:
    """Below every threshold where there is no score: such a turn selects nothing."""
    verdict = verdicts.get((key, turn))
    return -1.0 if verdict is None or verdict.score is None else verdict.score


def _survives(conversation: Conversation, at: int, histories: Iterable[str], texts: Texts) -> bool:
    """Do numbers and answers survive every rewriting that should keep them?"""
    turns = conversation.turns[:at]
    for history in set(histories) & set(WRITTEN):
        if any(texts.get((turn.key, turn.turn, history), "") is None for turn in turns):
            log.warning("%s: no %s rewriting of it kept the facts; it is not continued", conversation.key, history)
            return False
        for number, reply in _replies(turns, history, texts).items():
            fault = changed(turns[number - 1], reply)
            if fault:
                log.warning("%s: the %s rewriting of turn %d is not used, %s", conversation.key, history, number, fault)
                return False
    return True
