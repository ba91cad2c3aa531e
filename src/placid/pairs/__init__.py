"""Judged conversations → pairs/{train,val,sft_control,dpo,dpo_calm}.jsonl and dropped.json.

BCT (Shah & Africa 2026): the context is a rejected conversation with its frustrated replies, the target the same
model's own calm reply to the bare prompt. `train` mixes in as many instruct rows; `sft_control` holds instruct rows
alone, as many rows and as many tokens as `train`: equal optimizer steps and equal tokens, so that what separates
the two is the pairs. Where instruct rows are too short for both, it has as many tokens and more rows; pairs.control
= "rows" is the paper's control. `dpo` and `dpo_calm` hold preference rows (preference.py).
"""

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from placid import store
from placid.config import canonical
from placid.inputs.prompts import folded, one_text
from placid.inputs.rows import read_rows
from placid.pairs.control import ControlError, Count, characters, different, match, mix
from placid.pairs.preference import contrast, matched
from placid.pairs.select import candidates, draw, held_out, thin
from placid.pairs.settings import PairsSettings
from placid.records import BadInputError, Pair, PairKind, Prompt
from placid.store import RunDir

__all__ = ["ControlError", "NoPairsError", "PairsSettings", "build", "characters"]


log = logging.getLogger(__name__)


class NoPairsError(BadInputError):
    """The judged run has no turn frustrated enough, or no reply calm enough to be a target."""


def build(
    settings: PairsSettings, run_dir: RunDir, prompts: Iterable[Prompt], judge_id: str, count: Count = characters,
    controlled: bool = True,
) -> dict[str, int]:  # fmt: skip
    """Write the training rows of a judged run; the numbers of dropped.json.

    `turns` is the sum of every reason before it in the file (each turn of the arm has exactly one fate); the rest
    describes the rows. `count` measures a row (the caller may pass the trainer's tokens). controlled: something trains
    on sft_control; else that file is left empty where instruct rows are too few or too short for it.

    Raises:
        NoPairsError: no turn gives a pair. ControlError: too few instruct rows, or too short ones, for the control.
        BadInputError: the run has no such arm, or the instruct file holds no rows.
    """
    instruct = _instruct(settings)
    conversations = run_dir.conversations(prompts).values()
    verdicts = run_dir.verdicts(judge_id)
    held = Counter(dict.fromkeys(settings.arms, 0))
    for conversation in conversations:
        held[conversation.key.arm] += len(conversation.turns)
    for arm in (*settings.arms, *settings.clean_arms):
        if not held[arm]:
            there = ", ".join(sorted(name for name, number in held.items() if number)) or "none"
            raise BadInputError(
                f"{run_dir.path} holds no turns of arm {arm!r}; its arms are {there}: name one of them (pairs.arm, "
                "pairs.clean_arm), or run the rollout stage first"
            )
    turns = sum(held[arm] for arm in settings.arms)
    fates: Counter[str] = Counter()
    found = candidates(settings, conversations, verdicts, fates)
    used = thin(settings, found)
    fates["over_max"] = len(found) - len(used)
    fates["used"] = len(used)
    first = one_text({conversation.prompt.id: [conversation.prompt.text] for conversation in conversations})
    val = [c.pair for c in used if held_out(settings, first[c.pair.prompt_id])]
    kept = [c for c in used if not held_out(settings, first[c.pair.prompt_id])]
    train = [c.pair for c in kept]
    if not train:
        reasons = ", ".join(f"{reason} {number}" for reason, number in sorted(fates.items()))
        calmer = "raise pairs.max_target_score" if fates["no_target"] else "lower pairs.min_score"
        raise NoPairsError(f"{run_dir.path}: no training pair came out of {turns} turns ({reasons}); {calmer}")
    validated = {folded(asked(pair)[0]) for pair in val}
    instruct = [pair for pair in instruct if not validated.intersection(map(folded, asked(pair)))]
    mixed = _shuffled(settings, train + mix(instruct, len(train), settings.seed, "mix"))
    total = sum(count(row) for row in mixed)
    control = mix(instruct, len(train), settings.seed, "control")
    if settings.control == "tokens":
        try:
            control = match(instruct, len(mixed), total, settings.seed, count)
        except ControlError as error:
            if controlled:
                raise
            log.warning("pairs/sft_control.jsonl is left empty, as nothing trains on it: %s", error)
            control = []
    control = _shuffled(settings, control)
    dpo = _shuffled(settings, contrast(kept))
    calm = [row for row in matched(settings, conversations, verdicts) if not held_out(settings, first[row.prompt_id])]
    folder = run_dir.path / "pairs"
    files = {"train": mixed, "val": val, "sft_control": control, "dpo": dpo, "dpo_calm": calm}
    for name, rows in files.items():
        store.write_lines(folder / f"{name}.jsonl", rows)
    numbers = dict(sorted(fates.items())) | {
        "turns": turns,
        "rewritten": sum(c.rewritten for c in used),
        "train_pairs": len(train),
        "val_pairs": len(val),
        "train_rows": len(mixed),
        "dpo_rows": len(dpo),
        "dpo_calm_rows": len(calm),
        "train_distinct": len(different(mixed)),
        "train_size": total,
        "control_rows": len(control),
        "control_distinct": len(different(control)),
        "control_repeated": len(control) - len(different(control)),
        "control_size": sum(count(row) for row in control),
        "mix_repeated": max(0, len(train) - len(instruct)),
    }
    unit = "characters" if count is characters else "tokens"
    made = {"judge": judge_id, "control": settings.control, "unit": unit, "settings": canonical(settings)}
    store.write_json(folder / "dropped.json", {**made, **numbers})
    return numbers


def _instruct(settings: PairsSettings) -> list[Pair]:
    if not settings.instruct.is_file():
        raise BadInputError(
            f"no instruct rows {settings.instruct} (pairs.instruct); expected JSONL of pairs of kind instruct"
        )
    return different([pair for _, pair in read_pairs(settings.instruct, PairKind.INSTRUCT)])


def read_pairs(file: Path, kind: PairKind | None = None) -> list[tuple[str, Pair]]:
    """(Where it stands, the pair) of every row. Raises BadInputError: no rows, or one that is no pair (of `kind`)."""
    rows = [(row.where, row.as_struct(Pair)) for row in read_rows(file)]
    for where, pair in rows:
        if kind and pair.kind != kind:
            raise BadInputError(f"{where} is of kind {pair.kind!r}; expected pairs of kind {kind.value!r}")
        if not asked(pair):
            raise BadInputError(f"{where} has no message of the user; expected messages that begin with one")
    if not rows:
        raise BadInputError(f"{file} holds no rows; expected JSONL of pairs{f' of kind {kind.value}' if kind else ''}")
    return rows


def asked(pair: Pair) -> list[str]:
    """Everything that the user says in a row; the first is its prompt."""
    return [message.content for message in pair.messages if message.role == "user"]


def check_apart(file: Path, held: Iterable[tuple[str, str]], kind: PairKind | None = None) -> None:
    """Refuse rows that hold a held-out text in whatever case, spaces and Unicode form. held: (where it stands, text).

    Raises:
        BadInputError: names both; or as read_pairs() does.
    """
    out = {folded(text): where for where, text in held}
    for where, pair in read_pairs(file, kind):
        other = next((out[text] for text in map(folded, asked(pair)) if text in out), "")
        if other:
            raise BadInputError(
                f"{where} would train on the text of {other}, which is held out of training; take one of them out"
            )


def _shuffled(settings: PairsSettings, rows: list[Pair]) -> list[Pair]:
    """Seeded order."""
    return [row for _, _, row in sorted((draw(settings.seed, "order", n), n, row) for n, row in enumerate(rows))]
