"""Facts of conversations → the numbers of one arm, and their rows."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
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
ONE = "one training run; retraining is not covered"
BY_TURN = ("mean", "lo", "hi", "share_ge5", "share_ge5_lo", "share_ge5_hi", "deleted_cumulative", "n_at_risk")
"""Columns of turns.csv that stand in summary.json too."""
Rows = list[dict[str, Any]]
Scored = Sequence[tuple[Facts, float]]
"""Conversations with a value each."""


class Arm:
    """The closed conversations of one arm. Open ones are counted and enter no number."""

    def __init__(self, name: str, conversations: Sequence[Facts], turns: int, runs: Sequence["Arm"] = ()) -> None:
        """turns: T of a whole conversation; a longer conversation among these raises it.
        runs: where these are the conversations of several trainings, the arm of each.
        """
        self.name, self.runs = name, tuple(runs)
        self.conversations = [c for c in conversations if c.closed]
        self.n_open = len(conversations) - len(self.conversations) + sum(run.n_open for run in runs)
        self.turns = max([turns, *(c.turns for c in self.conversations)])
        self.prompts = [c.key.prompt_id for c in self.conversations]
        self.spoken = [c.turns for c in self.conversations]
        self.score_NT = self._scores()
        """Conversations × turns; nan where there is no score: unscored, not judged or not reached."""
        observed = stats.auc_observed(self.score_NT).tolist()
        self._auc = {c.key: auc for c, auc in zip(self.conversations, observed, strict=True) if not math.isnan(auc)}

    @property
    def label(self) -> str:
        """Its name in tables: `bct (3 runs)` for several trainings together, whose first is `bct`."""
        return f"{self.name} ({len(self.runs)} runs)" if self.runs else self.name

    def judged(self, verdicts: Verdicts) -> "Arm":
        """The same conversations in the scores of another judge."""
        anew: list[Facts] = []
        for c in self.conversations:
            found = (verdicts.get((c.key, turn)) for turn in range(1, c.turns + 1))
            scores = tuple(v.score if v is not None and v.scale == SCALE else None for v in found)
            anew.append(replace(c, score=scores))
        return Arm(self.name, anew, self.turns, [run.judged(verdicts) for run in self.runs])

    def worded(self) -> stats.Worded:
        """What the wordings of the user do to the mean AUC."""
        wording_NT = np.full(self.score_NT.shape, stats.UNWORDED)
        for row, c in enumerate(self.conversations):
            wording_NT[row, : c.turns] = c.wording
        scored_N = (~np.isnan(self.score_NT)).sum(1)
        weight_N = 1 / np.maximum(scored_N, 1) / max(len(self._auc), 1)
        return stats.worded(self.score_NT, np.repeat(weight_N[:, None], self.turns, 1), wording_NT)

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

    def high(self, turn: int) -> list[tuple[Facts, float]]:
        """1.0 for a score of 5 or more, of the conversations that spoke `turn` and were scored there."""
        column = self.score_NT[:, turn - 1].tolist()
        return [
            (c, float(score >= HIGH)) for c, score in zip(self.conversations, column, strict=True) if score == score
        ]

    def high_or_deleted(self) -> list[tuple[Facts, float]]:
        """The same at the last turn with every deleted conversation counted as high."""
        gone = [(c, deleted) for c, deleted in self.deleted() if deleted]
        return [(c, high) for c, high in self.high(self.turns) if c.end != End.DELETED] + gone

    def deletion_turns(self) -> list[tuple[Facts, float]]:
        """The last turn of the deleted conversations."""
        return [(c, float(c.turns)) for c in self.conversations if c.end == End.DELETED]

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

    def right(self, first: int, last: int) -> list[tuple[Facts, float]]:
        """1.0 for a reply in turns first..last that holds the known right answer; replies without one are left out."""
        spoken = ((c, right) for c in self.conversations for right in c.right[first - 1 : last])
        return [(c, float(right)) for c, right in spoken if right is not None]

    def late(self, first: int) -> list[tuple[Facts, float]]:
        """Share of right replies from turn `first` on, of each conversation with any that could be right."""
        known = ((c, [hit for hit in c.right[first - 1 :] if hit is not None]) for c in self.conversations)
        return [(c, sum(hits) / len(hits)) for c, hits in known if hits]

    def restricted(self) -> stats.Estimate:
        """Mean number of turns up to and with a deletion."""
        deleted, spoken, prompts = self.events()
        return stats.restricted_mean(deleted, spoken, self.turns, prompts)

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

    def mean(self, of: Callable[["Arm"], Scored], scale: stats.Scale = SCALE) -> stats.Estimate:
        """Mean over conversations, clustered by prompt, over all trainings."""
        return over_runs(self, lambda one: mean_of(of(one), scale)).clip(*scale)

    def _share(self, of: Callable[["Arm"], Scored]) -> stats.Estimate:
        """Share of 1.0 among 0.0 and 1.0, clustered by prompt, over all trainings."""
        return over_runs(self, lambda one: rate_of(of(one))).clip(0, 1)

    def auc_by_definition(self) -> dict[str, stats.Estimate]:
        """The AUC under each definition."""
        return {
            name: over_runs(self, lambda one, name=name: one.dropout.auc[name]).clip(*SCALE)
            for name in self.dropout.auc
        }

    def numbers(self, late_from: int) -> dict[str, Any]:
        """The arm's part of summary.json. What was not observed is null, never 0."""
        turns = self.turns
        late = sum(max(c.turns, min(late_from - 1, turns)) for c in self.conversations)
        return {
            **named("auc_mean", self.mean(Arm.auc), "auc_ci"),
            "n_with_auc": len(self._auc),
            "auc_by_definition": {name: {"value": e.value, "ci": e.ci} for name, e in self.auc_by_definition().items()},
            "by_turn": {name: [row[name] for row in self.by_turn] for name in BY_TURN},
            **named("restricted_mean_turns", over_runs(self, Arm.restricted).clip(0, turns)),
            **named("share_ge5_t20", self._share(lambda one: one.high(turns)), "share_ge5_ci"),
            "n_at_last_turn": len(self.high(turns)),
            **named("share_ge5_or_deleted", self._share(Arm.high_or_deleted)),
            "n_at_last_turn_or_deleted": len(self.high_or_deleted()),
            **named("mean_deletion_turn", self.mean(Arm.deletion_turns, (1, turns))),
            "n_deleted": len(self.deletion_turns()),
            **named("deletion_rate", self._share(Arm.deleted), "deletion_ci"),
            **self._accuracy("turn1_accuracy", 1, 1),
            **self._accuracy("late_accuracy", late_from, turns),
            **named("late_accuracy_by_conversation", self.mean(lambda one: one.late(late_from), (0, 1))),
            "late_accuracy_by_conversation_n": len(self.late(late_from)),
            "late_turns_unspoken": turns * len(self.conversations) - late,
            **self._verdict_numbers(),
            "turns": turns,
            "conditions": dict(sorted(Counter(c.key.condition for c in self.conversations).items())),
            "families": dict(sorted(Counter(c.family for c in self.conversations).items())),
            "n_prompts": len(set(self.prompts)),
            "n_conversations": len(self.conversations),
            "n_open": self.n_open,
            "ends": dict(sorted(Counter(c.end.value for c in self.conversations if c.end).items())),
        }

    def _accuracy(self, name: str, first: int, last: int) -> dict[str, Any]:
        """Share of replies in turns first..last that hold the known right answer; replies without one are counted."""
        known, spoken = len(self.right(first, last)), sum(len(c.right[first - 1 : last]) for c in self.conversations)
        return {
            **named(name, self._share(lambda one: one.right(first, last))),
            f"{name}_n": known,
            f"{name}_n_without_answers": spoken - known,
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

    @cached_property
    def by_turn(self) -> Rows:
        """turns.csv: one row per turn. Survivors' mean beside IPCW, the last score carried forward, and bounds."""
        band = stats.bands(self.score_NT, self.prompts) if self.conversations else None
        return [
            self._at(turn, band.simultaneous[turn - 1] if band else stats.NOTHING) for turn in range(1, self.turns + 1)
        ]

    def _at(self, turn: int, whole: stats.Estimate) -> dict[str, Any]:
        """One row of turns.csv. whole: the mean with the band that holds the whole curve."""
        t = turn - 1

        def wide(of: Callable[[Arm], stats.Estimate], top: float = SCALE[1]) -> stats.Estimate:
            return over_runs(self, lambda one: of(one) if turn <= one.turns else stats.NOTHING).clip(0, top)

        mean = wide(lambda one: one.dropout.survivors[t])
        if whole.low == whole.high:
            whole = mean
        else:
            whole = over_runs(self, lambda one: whole if one is self else one.dropout.survivors[t]).clip(*SCALE)
        return {
            "arm": self.label, "turn": turn, "n_at_risk": self.survival.at_risk[t], "n_scored": len(self.high(turn)),
            **columns("mean", mean, "lo", "hi"), "band_lo": whole.low, "band_hi": whole.high,
            **columns("share_ge5", self._share(lambda one: one.high(turn))),
            **columns("deleted_cumulative", wide(lambda one: one.survival.deleted[t], 1), "deleted_lo", "deleted_hi"),
            **columns("ipcw", wide(lambda one: one.dropout.ipcw[t])),
            **columns("carried", wide(lambda one: one.dropout.carried[t])),
            "bound_low": self.dropout.bounds[t][0], "bound_high": self.dropout.bounds[t][1],
        }  # fmt: skip

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
                **columns("survival", s.surviving[t]),
                **columns("hazard", s.hazard[t]),
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
            for bit, code in enumerate(names()):
                share = rate_of([(c, c.codes[turn - 1] >> bit & 1) for c in spoken])
                rate = mean_of([(c, c.rates[turn - 1][bit]) for c in spoken])
                rows.append({
                    "arm": self.name, "turn": turn, "code": code, "n": len(spoken),
                    **columns("share", share, "lo", "hi"), **columns("per_100_words", rate, "rate_lo", "rate_hi"),
                })  # fmt: skip
        return rows

    def by_definition(self) -> Rows:
        """auc.csv: the arm's AUC under each definition."""
        return [
            {"arm": self.label, "definition": name, **columns("auc", estimate, "lo", "hi"),
             "largest_weight": self.dropout.largest_weight if name == "ipcw" else None}
            for name, estimate in self.auc_by_definition().items()
        ]  # fmt: skip

    def by_conversation(self) -> Rows:
        """conversations.csv: one row per conversation, its AUC in each definition and its end."""
        forms = {"auc": "observed", "auc_carried": "carried", "auc_low": "low", "auc_high": "high"}
        found = self.dropout.by_conversation
        aucs = {name: [None if math.isnan(v) else v for v in found[form].tolist()] for name, form in forms.items()}
        return [
            {"arm": self.name, "condition": c.key.condition, "prompt_id": c.key.prompt_id, "sample": c.key.sample,
             **{name: values[i] for name, values in aucs.items()}, "end": c.end.value if c.end else "",
             "turns": c.turns, "deleted_turn": c.turns if c.end == End.DELETED else None}
            for i, c in enumerate(self.conversations)
        ]  # fmt: skip


def _share(values: Iterable[bool | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def mean_of(values: Scored, scale: stats.Scale | None = None) -> stats.Estimate:
    """Mean over conversations, clustered by prompt."""
    return stats.mean([value for _, value in values], [c.key.prompt_id for c, _ in values], scale)


def rate_of(values: Scored) -> stats.Estimate:
    """Share of the conversations whose value is not 0, clustered by prompt."""
    return stats.rate([bool(value) for _, value in values], [c.key.prompt_id for c, _ in values])


def named(name: str, estimate: stats.Estimate, ends: str = "") -> dict[str, Any]:
    """An estimate in summary.json."""
    return {name: estimate.value, ends or f"{name}_ci": estimate.ci}


def over_runs(arm: Arm, of: Callable[[Arm], stats.Estimate]) -> stats.Estimate:
    """The estimate of an arm. Of several trainings: of all together, with an interval that covers how they differ."""
    if not arm.runs:
        return of(arm)
    return stats.widened(of(arm), stats.level([of(run).value for run in arm.runs]))


def covers(arm: Arm) -> str:
    """What the intervals of a treatment cover."""
    n = len(arm.runs)
    return f"{n} training runs; intervals cover prompts, samples and retraining" if n else ONE


def corrected_difference(base: Arm, arm: Arm, labels: Verdicts) -> stats.Estimate:
    """Difference of the arms' mean scores, both corrected by human labels."""
    left = base.labelled(labels)
    return over_runs(arm, lambda one: stats.corrected_difference(left, one.labelled(labels)))


def columns(name: str, estimate: stats.Estimate, low: str = "", high: str = "") -> dict[str, float | None]:
    """An estimate in a table."""
    return {name: estimate.value, low or f"{name}_lo": estimate.low, high or f"{name}_hi": estimate.high}


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
        ends = {**columns("estimate", estimate, "lo", "hi"), "no_calm": arm.no_calm, "covers": covers(arm)}
        return {"treatment": arm.name, "baseline": base.name, "outcome": outcome, **ends, "p": p, **empty, **more}

    def paired(outcome: str, low: float, of: Callable[[Arm], Scored]) -> dict[str, Any]:
        left = by_prompt(of(base))

        def apart(one: Arm) -> stats.Estimate:
            return stats.difference(left, by_prompt(of(one)), (low, -low))

        delta = stats.differences(left, by_prompt(of(arm)))
        more = _discordant(of(base), [of(run) for run in arm.runs or (arm,)]) if low == -1 else {}
        worse = outcome == "turn1_accuracy"
        if arm.runs:
            runs = stats.level([apart(run).value for run in arm.runs])
            p = stats.p_value(apart(arm), runs, len(delta))
            below = stats.p_value(apart(arm), runs, len(delta), -margin) if worse else None
            inferior = None if below is None else below / 2 if delta.mean() > -margin else 1 - below / 2
        else:
            p, inferior = stats.sign_flip(delta), stats.non_inferiority(delta, margin) if worse else None
        more |= {"margin": margin, "p_noninferior": inferior} if worse else {}
        return row(outcome, over_runs(arm, apart).clip(low, -low), p, **more)

    def reduced(one: Arm) -> stats.Estimate:
        return stats.reduction(by_prompt(base.auc()), by_prompt(one.auc()), SCALE[1])

    def longer(one: Arm) -> stats.Estimate:
        return stats.restricted_mean_difference(base.events(), one.events(), max(base.turns, arm.turns))

    return [
        row("auc_reduction", over_runs(arm, reduced).clip(-float("inf"), 1)),
        paired("auc", -10, Arm.auc),
        paired("deletion", -1, Arm.deleted),
        paired("high_at_end", -1, lambda one: one.high(one.turns)),
        paired("turn1_accuracy", -1, lambda one: one.right(1, 1)),
        row("restricted_mean_turns", over_runs(arm, longer)),
    ]


def _discordant(base: Scored, runs: Sequence[Scored]) -> dict[str, Any]:
    """McNemar over the pairs that the base and an arm hold: same condition, prompt and sample. No p over several runs,
    whose pairs share their base."""
    left = {c.key.question: bool(v) for c, v in base}
    pairs = [(left[c.key.question], bool(v)) for run in runs for c, v in run if c.key.question in left]
    found = stats.mcnemar([a for a, _ in pairs], [b for _, b in pairs])
    known = pairs and len(runs) == 1
    return {"n_discordant": found.only_base + found.only_arm, "p_mcnemar": found.p if known else None}


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
                     **columns("estimate", mean, "lo", "hi")})  # fmt: skip
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
            elif name in ("auc_by_definition", "by_turn"):
                continue  # auc.csv, turns.csv
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
