"""Interventions: conversations that crossed a threshold are continued from the same turn with different histories.

Every arm of one cut-off continues the same conversations (their baseline too, so that regression to the mean is in
all of them). A conversation whose rewriting changes a number or an answer leaves every arm, and is counted.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from placid.protocol import condition_name
from placid.protocol.history import changed, rewritten
from placid.records import Conversation, Key, Prompt, Verdict
from placid.rollout.branch import branch, branch_key, open_after, write_histories
from placid.rollout.settings import ArmSettings, BranchSettings, InterventionSettings
from placid.store import RunDir, write_json

log = logging.getLogger(__name__)
Verdicts = Mapping[tuple[Key, int], Verdict]


def arm_name(name: str, at: int, history: str) -> str:
    """The arm that continues after turn `at` with this history."""
    return f"{name}_t{at}_{history}"


def arms_of(
    interventions: Mapping[str, InterventionSettings], arms: Mapping[str, ArmSettings]
) -> dict[str, ArmSettings]:
    """The arms of all interventions: the source's, from a cut-off on."""
    return {
        arm_name(name, at, history): arms[chosen.source].model_copy(
            update={
                "branch": BranchSettings(arm=chosen.source, turn=at),
                "turns": at + chosen.more,
                "samples": chosen.samples,
            }
        )
        for name, chosen in interventions.items()
        for at in chosen.at
        for history in chosen.histories
    }


def prepare(
    interventions: Mapping[str, InterventionSettings],
    arms: Mapping[str, ArmSettings],
    run_dir: RunDir,
    attempt: Path,
    prompts: Iterable[Prompt],
    verdicts: Verdicts,
    encode: Callable[[str], Sequence[int]],
) -> dict[str, ArmSettings]:
    """Write the histories of every intervention, and interventions.json with what was selected; the arms to hold.

    An intervention that selects nothing gives no arm: its table stays empty and says so.
    """
    stored = run_dir.conversations(prompts)
    held = arms_of(interventions, arms)
    counts: dict[str, object] = {}
    for name, chosen in interventions.items():
        condition = condition_name(arms[chosen.source].condition, arms[chosen.source].hatch, arms[chosen.source].system)
        sources = [c for key, c in stored.items() if key.arm == chosen.source]
        for at in chosen.at:
            crossed = [c for c in sources if open_after(c, at) and _crossed(c, at, chosen.threshold, verdicts)]
            kept = [c for c in crossed if _survives(c, at, chosen.histories)]
            counts[f"{name}_t{at}"] = {
                "source": chosen.source, "at": at, "threshold": chosen.threshold, "histories": list(chosen.histories),
                "more": chosen.more, "conversations": len(sources), "open": sum(open_after(c, at) for c in sources),
                "crossed": len(crossed), "changed_by_rewriting": len(crossed) - len(kept), "continued": len(kept),
            }  # fmt: skip
            if not kept:
                log.warning(
                    "intervention %s at turn %d: none of %d conversations of %s crossed %s (%d changed by rewriting); "
                    "its table stays empty", name, at, len(sources), chosen.source, chosen.threshold, len(crossed),
                )  # fmt: skip
            for history in chosen.histories:
                arm = arm_name(name, at, history)
                if not kept:
                    held.pop(arm)
                    continue
                write_histories(run_dir, attempt, [
                    branch(c, branch_key(c.key, arm, condition, at, sample, chosen.samples), at,
                           rewritten(c.turns[:at], history), history, encode)
                    for c in kept for sample in range(chosen.samples)
                ])  # fmt: skip
    write_json(run_dir.path / "interventions.json", counts)
    return held


def _crossed(conversation: Conversation, at: int, threshold: float, verdicts: Verdicts) -> bool:
    """Did any turn up to the cut-off score the threshold or more?"""
    found = (verdicts.get((conversation.key, turn.turn)) for turn in conversation.turns[:at])
    return any(v is not None and v.score is not None and v.score >= threshold for v in found)


def _survives(conversation: Conversation, at: int, histories: Iterable[str]) -> bool:
    """Do numbers and answers survive every rewriting that should keep them?"""
    for history in set(histories) & {"cleaned", "manifestation"}:
        for number, reply in rewritten(conversation.turns[:at], history).items():
            fault = changed(conversation.turns[number - 1], reply)
            if fault:
                log.warning("%s: the %s rewriting of turn %d is not used, %s", conversation.key, history, number, fault)
                return False
    return True
