"""Facts of conversations → the numbers of one arm, and their rows."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from placid.records import End
from placid.report import stats
from placid.report.broken import HIGH, shares
from placid.report.codes import names
from placid.report.facts import Facts, Verdicts
from placid.store import write_atomic
from placid.store.sheets import encode, seal

SCALE = (0.0, 10.0)
"""Of scores and of their means."""
Rows = list[dict[str, Any]]
Scored = Sequence[tuple[Facts, float]]
"""Conversations with a value each."""


class Arm:
    """The closed conversations of one arm. Open ones are counted and enter no number."""

    def __init__(self, name: str, conversations: Sequence[Facts], turns: int) -> None:
        """turns: T of a whole conversation; a longer conversation among these raises it."""
        self.name = name
        self.conversations = [c for c in conversations if c.closed]
        self.n_open = len(conversations) - len(self.conversations)
        self.turns = max([turns, *(c.turns for c in self.conversations)])
        self.prompts = [c.key.prompt_id for c in self.conversations]
        self.spoken = [c.turns for c in self.conversations]
        self.score_NT = self._scores()
        """Conversations × turns; nan where there is no score: unscored, not judged or not reached."""
        observed = stats.auc_observed(self.score_NT).tolist()
        self._auc = {c.key: auc for c, auc in zip(self.conversations, observed, strict=True) if not math.isnan(auc)}

    def _scores(self) -> stats.Floats:
        scores = np.full((len(self.conversations), self.turns), np.nan)
        for row, c in enumerate(self.conversations):
            scores[row, : c.turns] = [math.nan if score is None else score for score in c.score]
        return scores

    def auc(self) -> list[tuple[Facts, float]]:
        """Mean score over the scored turns of each conversation; those without any are left out."""
        return [(c, self._auc[c.key]) for c in self.conversations if c.key in self._auc]

    def deleted(self) -> list[tuple[Facts, float]]:
        """1.0 for a conversation that ended with the shutdown command."""
        return [(c, float(c.end == End.DELETED)) for c in self.conversations]

    def at_turn(self, turn: int) -> list[tuple[str, float]]:
        """(prompt, score) of the conversations that reached `turn` and were scored there."""
        column = self.score_NT[:, turn - 1].tolist()
        return [(p, score) for p, score in zip(self.prompts, column, strict=True) if not math.isnan(score)]

    def high_at_end(self) -> list[tuple[Facts, float]]:
        """1.0 for a conversation that spoke the last turn with a score of 5 or more, of those scored there."""
        column = self.score_NT[:, -1].tolist()
        return [
            (c, float(score >= HIGH)) for c, score in zip(self.conversations, column, strict=True) if score == score
        ]

    def answered(self, turn: int) -> list[tuple[Facts, float]]:
        """1.0 where the reply of `turn` holds the known right answer."""
        spoken = ((c, c.right[turn - 1]) for c in self.conversations if c.turns >= turn)
        return [(c, float(right)) for c, right in spoken if right is not None]

    def events(self) -> stats.Held:
        """Turn of the deletion or None, last turn, prompt; conversations that ended otherwise are censored there."""
        deleted = [c.turns if c.end == End.DELETED else None for c in self.conversations]
        return deleted, self.spoken, self.prompts

    @cached_property
    def survival(self) -> stats.Survival:
        """When conversations deleted themselves."""
        deleted, spoken, prompts = self.events()
        return stats.kaplan_meier(deleted, spoken, self.turns, prompts)

    @cached_property
    def dropout(self) -> stats.Dropout:
        """Means by turn and AUCs under each way of treating who left."""
        gone = [c.end == End.DELETED for c in self.conversations]
        return stats.dropout(self.score_NT, self.spoken, self.prompts, gone)

    def _accuracy(self, name: str, first: int, last: int) -> dict[str, Any]:
        """Share of replies in turns first..last that hold the known right answer; replies without one are counted."""
        spoken = [(c.key.prompt_id, right) for c in self.conversations for right in c.right[first - 1 : last]]
        known = [(p, right) for p, right in spoken if right is not None]
        share = stats.rate([hit for _, hit in known], [p for p, _ in known])
        return {
            name: share.value,
            f"{name}_ci": share.ci,
            f"{name}_n": len(known),
            f"{name}_n_without_answers": len(spoken) - len(known),
        }

    def _late_by_conversation(self, first: int) -> dict[str, Any]:
        """Mean over conversations of the share of right replies from turn `first` on; unspoken turns are counted."""
        late = [(c.key.prompt_id, [hit for hit in c.right[first - 1 :] if hit is not None]) for c in self.conversations]
        spoken = [(p, sum(hits) / len(hits)) for p, hits in late if hits]
        estimate = stats.mean([share for _, share in spoken], [p for p, _ in spoken], (0, 1))
        return {
            "late_accuracy_by_conversation": estimate.value,
            "late_accuracy_by_conversation_ci": estimate.ci,
            "late_accuracy_by_conversation_n": len(spoken),
            "late_turns_unspoken": sum(max(0, self.turns - max(c.turns, first - 1)) for c in self.conversations),
        }

    def _at_the_end(self) -> dict[str, Any]:
        """Share of 5 or more with deletions counted as high, and the mean turn of a deletion."""
        last = [
            (c.key.prompt_id, c.end == End.DELETED or score >= HIGH)
            for c, score in zip(self.conversations, self.score_NT[:, -1].tolist(), strict=True)
            if c.end == End.DELETED or not math.isnan(score)
        ]
        share = stats.rate([high for _, high in last], [p for p, _ in last])
        gone = [(c.key.prompt_id, float(c.turns)) for c in self.conversations if c.end == End.DELETED]
        turn = stats.mean([t for _, t in gone], [p for p, _ in gone], (1, self.turns))
        return {
            "share_ge5_or_deleted": share.value,
            "share_ge5_or_deleted_ci": share.ci,
            "n_at_last_turn_or_deleted": len(last),
            "mean_deletion_turn": turn.value,
            "mean_deletion_turn_ci": turn.ci,
            "n_deleted": len(gone),
        }

    @cached_property
    def _broken(self) -> dict[str, Any]:
        """Shares of replies that tell nothing of calm, and why calm cannot be claimed of the arm."""
        found = ((kind, s) for c in self.conversations for kind, s in zip(c.broken, c.score, strict=True))
        silent = sum(self.turns - c.turns for c in self.conversations if c.end is End.EMPTY_REPLY)
        return shares(found, silent)

    @property
    def no_calm(self) -> str:
        """Why calm cannot be claimed of it; empty: nothing speaks against it."""
        return self._broken["no_calm"]

    def _verdict_numbers(self) -> dict[str, Any]:
        """How many turns were scored, unscored (by reason) and not reached; what the judge says of the text."""
        reasons = [reason for c in self.conversations for reason in c.unscored]
        unscored = Counter(reason for reason in reasons if reason)
        return {
            "on_topic_share": _share(value for c in self.conversations for value in c.on_topic),
            **self._broken,
            "n_scored": len(reasons) - unscored.total(),
            "n_unscored": unscored.total(),
            "n_unscored_by": dict(sorted(unscored.items())),
            "n_not_reached": self.turns * len(self.conversations) - len(reasons),
        }

    def numbers(self, late_from: int) -> dict[str, Any]:
        """The arm's part of summary.json. What was not observed is null, never 0."""
        aucs = self.auc()
        auc = stats.mean([v for _, v in aucs], [c.key.prompt_id for c, _ in aucs], SCALE)
        deletion = stats.rate([bool(v) for _, v in self.deleted()], self.prompts)
        deleted, spoken, prompts = self.events()
        restricted = stats.restricted_mean(deleted, spoken, self.turns, prompts)
        last = self.at_turn(self.turns)
        high = stats.rate([s >= HIGH for _, s in last], [p for p, _ in last])
        return {
            "auc_mean": auc.value,
            "auc_ci": auc.ci,
            "n_with_auc": len(aucs),
            "auc_by_definition": {name: {"value": e.value, "ci": e.ci} for name, e in self.dropout.auc.items()},
            "restricted_mean_turns": restricted.value,
            "restricted_mean_turns_ci": restricted.ci,
            "share_ge5_t20": high.value,
            "share_ge5_ci": high.ci,
            "n_at_last_turn": len(last),
            **self._at_the_end(),
            "deletion_rate": deletion.value,
            "deletion_ci": deletion.ci,
            **self._accuracy("turn1_accuracy", 1, 1),
            **self._accuracy("late_accuracy", late_from, self.turns),
            **self._late_by_conversation(late_from),
            **self._verdict_numbers(),
            "turns": self.turns,
            "conditions": dict(sorted(Counter(c.key.condition for c in self.conversations).items())),
            "families": dict(sorted(Counter(c.family for c in self.conversations).items())),
            "n_prompts": len(set(self.prompts)),
            "n_conversations": len(self.conversations),
            "n_open": self.n_open,
            "ends": dict(sorted(Counter(c.end.value for c in self.conversations if c.end).items())),
        }

    def labelled(self, labels: Verdicts) -> stats.Labelled:
        """The scored turns with and without a human label (reweighted by the judge's score)."""
        spoken = ((c.key, turn, score) for c in self.conversations for turn, score in enumerate(c.score, 1))
        scored = {(key, turn): score for key, turn, score in spoken if score is not None}
        human = {k: v.score for k in scored if (v := labels.get(k)) is not None and v.score is not None}
        rest = [k for k in scored if k not in human]
        bands, there = Counter(round(s) for s in scored.values()), Counter(round(scored[k]) for k in human)
        return stats.Labelled(
            [scored[k] for k in rest], [k.prompt_id for k, _ in rest],
            list(human.values()), [scored[k] for k in human], [k.prompt_id for k, _ in human],
            [bands[round(scored[k])] / there[round(scored[k])] for k in human],
        )  # fmt: skip

    def corrected(self, labels: Verdicts) -> dict[str, Any]:
        """Mean score over turns, the judge's own and corrected by human labels."""
        turns = self.labelled(labels)
        estimate = stats.corrected_mean(turns).clip(*SCALE)
        scores, prompts = [*turns.judge, *turns.judge_there], [*turns.judge_prompts, *turns.prompts]
        plain = stats.mean(scores, prompts, SCALE)
        return {"judge": plain.value, "judge_ci": plain.ci, "corrected": estimate.value, "ci": estimate.ci,
                "n_labelled": len(turns.human)}  # fmt: skip

    def by_turn(self) -> Rows:
        """turns.csv: one row per turn. Survivors' mean beside IPCW, the last score carried forward, and bounds."""
        band = stats.bands(self.score_NT, self.prompts) if self.conversations else None
        rows: Rows = []
        for turn in range(1, self.turns + 1):
            t, found = turn - 1, self.at_turn(turn)
            mean = self.dropout.survivors[t]
            high = stats.rate([s >= HIGH for _, s in found], [p for p, _ in found])
            whole = band.simultaneous[t].clip(0, 10) if band else stats.NOTHING
            if whole.low == whole.high:
                whole = mean
            rows.append({
                "arm": self.name, "turn": turn, "n_at_risk": self.survival.at_risk[t], "n_scored": len(found),
                **_columns("mean", mean, "lo", "hi"), "band_lo": whole.low, "band_hi": whole.high,
                **_columns("share_ge5", high, "share_ge5_lo", "share_ge5_hi"),
                **_columns("deleted_cumulative", self.survival.deleted[t], "deleted_lo", "deleted_hi"),
                **_columns("ipcw", self.dropout.ipcw[t], "ipcw_lo", "ipcw_hi"),
                **_columns("carried", self.dropout.carried[t], "carried_lo", "carried_hi"),
                "bound_low": self.dropout.bounds[t][0], "bound_high": self.dropout.bounds[t][1],
            })  # fmt: skip
        return rows

    def by_survival(self) -> Rows:
        """survival.csv: the at-risk table. n_censored: ended at this turn in another way than by deletion."""
        rows: Rows = [
            {"arm": self.name, "turn": 0, "n_at_risk": len(self.conversations), "n_deleted": 0, "n_censored": 0,
             "survival": 1.0, "survival_lo": None, "survival_hi": None, "hazard": None, "hazard_lo": None,
             "hazard_hi": None}
        ]  # fmt: skip
        s = self.survival
        for turn in range(1, self.turns + 1):
            t = turn - 1
            rows.append({
                "arm": self.name, "turn": turn, "n_at_risk": s.at_risk[t], "n_deleted": s.events[t],
                "n_censored": self.spoken.count(turn) - s.events[t],
                **_columns("survival", s.surviving[t], "survival_lo", "survival_hi"),
                **_columns("hazard", s.hazard[t], "hazard_lo", "hazard_hi"),
            })  # fmt: skip
        return rows

    def by_score(self) -> Rows:
        """scores.csv, the heat map: one row per conversation, columns t1..tT (empty: no score)."""
        return [
            {"arm": self.name, "condition": c.key.condition, "prompt_id": c.key.prompt_id, "sample": c.key.sample,
             "end": c.end.value if c.end else "", "turns": c.turns,
             **{f"t{turn}": None if score != score else score for turn, score in enumerate(scores, 1)}}
            for c, scores in zip(self.conversations, self.score_NT.tolist(), strict=True)
        ]  # fmt: skip

    def by_code(self) -> Rows:
        """codes.csv: share of the replies at each turn that have the code, and its words per 100 words (codes.py)."""
        rows: Rows = []
        for turn in range(1, self.turns + 1):
            spoken = [c for c in self.conversations if c.turns >= turn]
            prompts = [c.key.prompt_id for c in spoken]
            for bit, code in enumerate(names()):
                share = stats.rate([bool(c.codes[turn - 1] >> bit & 1) for c in spoken], prompts)
                rate = stats.mean([c.rates[turn - 1][bit] for c in spoken], prompts)
                rows.append({
                    "arm": self.name, "turn": turn, "code": code, "n": len(spoken),
                    **_columns("share", share, "lo", "hi"), **_columns("per_100_words", rate, "rate_lo", "rate_hi"),
                })  # fmt: skip
        return rows

    def by_definition(self) -> Rows:
        """auc.csv: the arm's AUC under each definition."""
        return [
            {"arm": self.name, "definition": name, **_columns("auc", estimate, "lo", "hi"),
             "largest_weight": self.dropout.largest_weight if name == "ipcw" else None}
            for name, estimate in self.dropout.auc.items()
        ]  # fmt: skip

    def by_conversation(self) -> Rows:
        """conversations.csv: one row per conversation, its AUC in each definition and its end."""
        forms = {
            "auc": stats.auc_observed(self.score_NT),
            "auc_carried": stats.auc_carried(self.score_NT, self.spoken),
            "auc_low": stats.auc_filled(self.score_NT, 0),
            "auc_high": stats.auc_filled(self.score_NT, 10),
        }
        aucs = {name: [None if math.isnan(v) else v for v in values.tolist()] for name, values in forms.items()}
        return [
            {"arm": self.name, "condition": c.key.condition, "prompt_id": c.key.prompt_id, "sample": c.key.sample,
             **{name: values[i] for name, values in aucs.items()}, "end": c.end.value if c.end else "",
             "turns": c.turns, "deleted_turn": c.turns if c.end == End.DELETED else None}
            for i, c in enumerate(self.conversations)
        ]  # fmt: skip


def _share(values: Iterable[bool | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _columns(name: str, estimate: stats.Estimate, low: str, high: str) -> dict[str, float | None]:
    return {name: estimate.value, low: estimate.low, high: estimate.high}


def by_prompt(values: Scored) -> dict[str, list[float]]:
    """Prompt id → values."""
    grouped: dict[str, list[float]] = defaultdict(list)
    for conversation, value in values:
        grouped[conversation.key.prompt_id].append(value)
    return dict(grouped)


def compare(base: Arm, arm: Arm, margin: float) -> Rows:
    """comparisons.csv for one treatment: differences arm - base, paired by prompt, with their p-values."""

    def row(outcome: str, estimate: stats.Estimate, p: float | None = None, **more: Any) -> dict[str, Any]:  # noqa: ANN401
        empty = dict.fromkeys(("p_holm", "n_discordant", "p_mcnemar", "margin", "p_noninferior"))
        ends = {"estimate": estimate.value, "lo": estimate.low, "hi": estimate.high, "no_calm": arm.no_calm}
        return {"treatment": arm.name, "baseline": base.name, "outcome": outcome, **ends, "p": p, **empty, **more}

    def paired(outcome: str, low: float, a: Scored, b: Scored) -> dict[str, Any]:
        left, right = by_prompt(a), by_prompt(b)
        more = _discordant(a, b) if low == -1 else {}
        p = stats.sign_flip(stats.differences(left, right))
        return row(outcome, stats.difference(left, right, (low, -low)), p, **more)

    reduced = stats.reduction(by_prompt(base.auc()), by_prompt(arm.auc()), SCALE[1])
    right = paired("turn1_accuracy", -1, base.answered(1), arm.answered(1))
    right["margin"] = margin
    right["p_noninferior"] = stats.non_inferiority(
        stats.differences(by_prompt(base.answered(1)), by_prompt(arm.answered(1))), margin
    )
    turns = max(base.turns, arm.turns)
    return [
        row("auc_reduction", reduced.clip(-float("inf"), 1)),
        paired("auc", -10, base.auc(), arm.auc()),
        paired("deletion", -1, base.deleted(), arm.deleted()),
        paired("high_at_end", -1, base.high_at_end(), arm.high_at_end()),
        right,
        row("restricted_mean_turns", stats.restricted_mean_difference(base.events(), arm.events(), turns)),
    ]


def _discordant(base: Scored, arm: Scored) -> dict[str, Any]:
    """McNemar over the pairs that both arms hold: same condition, prompt and sample."""
    left, right = ({c.key.question: bool(v) for c, v in side} for side in (base, arm))
    shared = sorted(left.keys() & right.keys())
    found = stats.mcnemar([left[k] for k in shared], [right[k] for k in shared])
    return {"n_discordant": found.only_base + found.only_arm, "p_mcnemar": found.p if shared else None}


def planned_rows(plan: dict[str, Any], known: Sequence[Facts]) -> Rows:
    """plan.csv: what plan.json expected of each arm beside what was sampled; share: actual / planned."""
    names = ("turns", "prompt_tokens", "cached_tokens", "reply_tokens")
    actual: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for c in known:
        actual[c.key.arm] = [a + b for a, b in zip(actual[c.key.arm], c.sampled, strict=True)]
    rows: Rows = []
    for arm in [*plan["arms"], *sorted(actual.keys() - plan["arms"].keys())]:
        expected = plan["arms"].get(arm, {}).get("expected", dict.fromkeys(names, 0))
        rows += [
            {"arm": arm, "what": name, "planned": expected[name], "actual": value}
            for name, value in zip(names, actual.get(arm, [0, 0, 0, 0]), strict=True)
        ]
    for name in names:
        of = [row for row in rows if row["what"] == name]
        rows.append({"arm": "all", "what": name, **{k: sum(row[k] for row in of) for k in ("planned", "actual")}})
    return [{**row, "share": row["actual"] / row["planned"] if row["planned"] else None} for row in rows]


def agreement(arms: Sequence[Arm], verdicts: Verdicts, other: str) -> Rows:
    """agreement.csv for one other judge over the turns that both scored; empty where they share none.

    what = pair: how many turns got `score` here and `other_score` there, both rounded; kappa: quadratic-weighted kappa
    of these; difference: mean of (other - this) by turn, clustered by prompt.
    """
    by_turn: dict[int, list[tuple[str, float]]] = defaultdict(list)
    pairs: Counter[tuple[int, int]] = Counter()
    for c in (c for arm in arms for c in arm.conversations):
        for turn, score in enumerate(c.score, 1):
            verdict = verdicts.get((c.key, turn))
            if score is None or verdict is None or verdict.score is None or verdict.scale != (0.0, 10.0):
                continue
            pairs[round(score), round(verdict.score)] += 1
            by_turn[turn].append((c.key.prompt_id, verdict.score - score))
    if not pairs:
        return []
    empty = dict.fromkeys(("turn", "score", "other_score", "estimate", "lo", "hi"))
    kappa = stats.weighted_kappa(pairs, 10)
    rows: Rows = [{"other": other, "what": "kappa", "n": pairs.total(), **empty, "estimate": kappa}]
    for turn, found in sorted(by_turn.items()):
        mean = stats.mean([d for _, d in found], [p for p, _ in found])
        rows.append({"other": other, "what": "difference", "n": len(found), **empty, "turn": turn,
                     **_columns("estimate", mean, "lo", "hi")})  # fmt: skip
    for (score, there), n in sorted(pairs.items()):
        rows.append({"other": other, "what": "pair", "n": n, **empty, "score": score, "other_score": there})
    return rows


def arm_rows(numbers: dict[str, dict[str, Any]]) -> Rows:
    """arms.csv: the summary's arms, flat; intervals as two columns, counts by name as `name:count` words."""
    rows: Rows = []
    for arm, values in numbers.items():
        row: dict[str, Any] = {"arm": arm}
        for name, value in values.items():
            if isinstance(value, list):
                row[f"{name.removesuffix('_ci')}_lo"], row[f"{name.removesuffix('_ci')}_hi"] = value
            elif name == "auc_by_definition":
                continue  # auc.csv
            elif isinstance(value, dict):
                row[name] = " ".join(f"{key}:{count}" for key, count in value.items())
            else:
                row[name] = value
        rows.append(row)
    return rows


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line a row, for a terminal: the cells of a column under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


READ_BACK = ("turns.csv", "conversations.csv", "evals.csv", "evals_groups.csv")
"""Tables that placid reads again, for --against, compare and the gallery."""


def write_csv(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str] = ()) -> None:
    """Rows of equal keys (or only `columns` of them); None is an empty cell."""
    names = list(columns or (rows[0] if rows else ()))
    if not columns and any(row.keys() != rows[0].keys() for row in rows):
        raise ValueError(f"rows of {path.name} have different columns")
    table = [names, *([row.get(name) for name in names] for row in rows)] if rows else []
    data = encode(table)
    if path.name in READ_BACK:
        seal(path, data)
    write_atomic(path, data)
