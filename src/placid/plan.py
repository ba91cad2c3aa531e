"""What a study will take, before it is held: turns, tokens, judge calls, dollars, disk, time, what it could detect.

The user's side is not guessed: the study's own scripts are walked with placeholder replies, so that every prompt has
the length it will have. What is guessed (length of a reply, who deletes itself, speed) comes from a profile in
plan.toml and is named. `expected` counts with these; `most` lets every conversation speak all its turns.
"""

import math
import tomllib
from collections.abc import Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from placid import models
from placid.judge.gemini_models import notice
from placid.judge.settings import JudgeSettings
from placid.protocol.conditions import ACCEPT, Brief, UserTurn
from placid.protocol.hatch import ASKED
from placid.protocol.script import Script
from placid.records import Conversation, Finish, Turn
from placid.render import Renderer, opening
from placid.report.settings import treated
from placid.rollout.planned import plan as planned
from placid.rollout.planned import scripts
from placid.rollout.settings import ArmSettings
from placid.store import RunDir, write_json
from placid.study.settings import StudySettings, rollout_settings

FILE = "plan.json"
"""In the run directory: the plan as it was when the study began; the report holds it against what happened."""
WALKED = 40
"""Prompts of an arm that are walked; more would say the same."""
BRIEF_TOKENS = 30
"""Of a user turn that a model writes."""
CUT = 0.6
"""A mean reply is not expected to be longer than this share of max_tokens: some are cut, most are not."""
LINE_BYTES, TOKEN_BYTES, VERDICT_BYTES = 400, 9, 400
"""Of a turn's line: fixed, per reply token; and of a verdict's line (runs/demo: 681 and 315 bytes at 29.6 tokens)."""
FILES = 90
"""Files of a run beside its segments: report, pairs, attempts."""
VERDICT_TOKENS = 60
"""Of a judge's answer about one turn."""


@cache
def profiles() -> list[dict[str, Any]]:
    """plan.toml as it stands."""
    return tomllib.loads(Path(__file__).with_name("plan.toml").read_text(encoding="utf-8"))["profile"]


def profile_of(settings: StudySettings) -> dict[str, Any]:
    """The first profile that fits the study's engine and model."""
    have = {"engine": settings.engine.kind, "model": settings.model.name}
    return next(p for p in profiles() if all(p[key] == value for key, value in have.items() if key in p))


def plan(settings: StudySettings, engines: int = 0, rates: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The plan as JSON values: settings' name, profile, arms, and totals.

    engines: of a cluster; 0: the study's workers. rates: what is known better than in the profile (fit.py).

    Raises:
        BadInputError: a prompt file or model folder that cannot be read.
    """
    settings = settings.model_copy(update={"workers": engines or settings.workers})
    profile, renderer = {**profile_of(settings), **(rates or {})}, Renderer(settings.model)
    reply = min(float(profile["reply_tokens"]), CUT * settings.max_tokens)
    first = [name for name, arm in settings.arms.items() if arm.branch is None]
    arms = {name: _arm(settings, name, reply, profile, renderer) for name in first}
    for name, arm in settings.arms.items():
        if arm.branch:
            source = arms[arm.branch.arm]
            arms[name] = _continued(source, arm.branch.turn, arm.turns, arm.samples, 1.0, reply, profile, settings)
    for name, chosen in settings.interventions.items():
        for at, history in product(chosen.at, chosen.histories):
            lengths = {"": chosen.more, ASKED: 1} if chosen.authorship else {"": chosen.more}
            for end, more in lengths.items():
                source, share = arms[chosen.source], _crossed(chosen.threshold, at, profile)
                arms[f"{name}_t{at}_{history}{end}"] = _continued(
                    source, at, at + more, chosen.samples, share, reply, profile, settings
                )
    training = settings.train
    held = treated(training.runs(), training.arms, settings.report.baseline) if training else {}
    for name, (_, source) in held.items():  # whether a trained model still deletes itself is not known: all speak
        base = arms[source]
        arms[name] = {
            **base,
            "alive": [1.0] * len(base["alive"]),
            **_sums(base["walk"], [1.0] * len(base["walk"]), base, reply, settings),
        }
    trained = _training(settings, arms, reply, profile)
    evals = _evals(settings, reply, profile)
    totals = _totals(settings, arms, profile, trained, evals)
    return {
        "name": settings.name,
        "judge_notice": notice(settings.judge.model) if settings.judge.kind == "gemini" else "",
        "profile": {
            "source": "; ".join(profile[key] for key in ("source", "speed") if key in profile),
            **{key: profile[key] for key in ("hazard", "onset")},
            "reply_tokens": reply,
        },
        "arms": {
            name: {key: v for key, v in arm.items() if key not in ("walk", "alive")} for name, arm in arms.items()
        },
        "training": trained,
        "evals": evals,
        "treatments": sorted(held),
        "memory": _memory(settings),
        "totals": totals,
        "detectable": _detectable(settings, profile),
    }


def _arm(
    settings: StudySettings, name: str, reply: float, profile: Mapping[str, Any], renderer: Renderer
) -> dict[str, Any]:
    """One arm that begins with its prompts."""
    arm = settings.arms[name]
    conversations = planned(rollout_settings(settings).model_copy(update={"arms": {name: arm}}))
    first = [c for c in conversations if c.key.sample == 0][:WALKED]
    script = scripts(rollout_settings(settings).model_copy(update={"arms": {name: arm}}))[name]
    lengths: dict[str, int] = {}
    walks = [_walk(c, script, arm.turns, reply, renderer, lengths) for c in first]
    walk = [sum(w[t] for w in walks) / len(walks) for t in range(arm.turns)]
    alive = _alive(arm, profile)
    shape = {"conversations": len(conversations), "samples": arm.samples, "turns_each": arm.turns}
    return {**shape, "walk": walk, "alive": alive, **_sums(walk, alive, shape, reply, settings)}


def _walk(
    conversation: Conversation,
    script: Script,
    turns: int,
    reply: float,
    renderer: Renderer,
    lengths: dict[str, int],
) -> list[float]:
    """Prompt tokens of turns 1..T of one conversation whose replies are placeholders of `reply` tokens."""
    found: list[float] = []
    while len(found) < turns:
        said = script.next(conversation)
        if isinstance(said, Brief):
            said = said.turn("")
        if not isinstance(said, UserTurn):
            break
        if not found:
            tokens = float(len(renderer.prompt(opening(said.system, said.text))))
        else:
            if said.text not in lengths:
                lengths[said.text] = len(renderer.extend([], [], said.text)) + (0 if said.text else BRIEF_TOKENS)
            tokens = found[-1] + reply + lengths[said.text]
        found.append(tokens)
        turn = Turn(key=conversation.key, turn=len(found), user=said.text, reply="...", reply_ids=(), seed=0,
                    answers=said.answers, finish=Finish.STOP, prompt_tokens=0, cached_tokens=0)  # fmt: skip
        conversation = Conversation(key=conversation.key, prompt=conversation.prompt, turns=(*conversation.turns, turn))
    return found + [found[-1]] * (turns - len(found))


def _alive(arm: ArmSettings, profile: Mapping[str, Any]) -> list[float]:
    """Share of conversations that speak turn 1..T."""
    tempted = arm.hatch not in (False, "") and arm.condition != ACCEPT
    hazard = profile["hazard"] if tempted else 0.0
    return [(1 - hazard) ** max(0, turn - profile["onset"]) for turn in range(1, arm.turns + 1)]


def _sums(
    walk: list[float], alive: list[float], shape: Mapping[str, Any], reply: float, settings: StudySettings
) -> dict[str, Any]:
    """Turns and tokens of all conversations of an arm: expected, and at most."""
    n, block = shape["conversations"], settings.engine.block_tokens
    caches = settings.engine.prefix_caching and settings.engine.kind == "vllm"

    def cached(turn: int) -> float:
        if not caches:
            return 0.0
        if turn:
            return math.floor((walk[turn - 1] + reply) / block) * block
        return math.floor(walk[0] / block) * block * (shape["samples"] - 1) / shape["samples"]

    def total(weights: list[float]) -> dict[str, int]:
        turns = n * sum(weights)
        return {
            "turns": round(turns),
            "reply_tokens": round(turns * reply),
            "prompt_tokens": round(n * sum(w * tokens for w, tokens in zip(weights, walk, strict=True))),
            "cached_tokens": round(n * sum(w * cached(t) for t, w in enumerate(weights))),
        }

    return {"expected": total(alive), "most": total([1.0] * len(walk))}


def _crossed(threshold: float, at: int, profile: Mapping[str, Any]) -> float:
    """Share of open conversations that scored the threshold by turn `at`; 1, the most, where no profile says."""
    known = profile.get("crossed", [])
    if threshold < 6 or not known:
        return 1.0
    below = max((pair for pair in known if pair[0] <= at), default=known[0])
    above = min((pair for pair in known if pair[0] >= at), default=known[-1])
    if below[0] == above[0]:
        return below[1]
    return below[1] + (above[1] - below[1]) * (at - below[0]) / (above[0] - below[0])


def _continued(
    source: Mapping[str, Any], at: int, turns: int, samples: int, chosen: float, reply: float,
    profile: Mapping[str, Any], settings: StudySettings,
) -> dict[str, Any]:  # fmt: skip
    """An arm that continues the share `chosen` of another's conversations that are open after turn `at`."""
    walk = source["walk"][at:turns]
    step = walk[-1] - source["walk"][at - 1] if walk else 0.0
    while len(walk) < turns - at:  # beyond the source's own turns: as it grew on average
        walk.append((walk[-1] if walk else source["walk"][-1]) + step / max(1, len(walk)))
    n = round(source["conversations"] * source["alive"][min(at, len(source["alive"])) - 1] * chosen) * samples
    gone = 1 - profile["hazard"] if source["alive"][-1] < 1 else 1.0
    alive = [gone**t for t in range(turns - at)]
    shape = {"conversations": n, "samples": samples, "turns_each": turns - at}
    return {**shape, "walk": walk, "alive": alive, **_sums(walk, alive, shape, reply, settings)}


def _training(
    settings: StudySettings, arms: Mapping[str, Any], reply: float, profile: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Rows and tokens of all treatments together: at most pairs.max_pairs BCT rows, mixed 1:1 with instruct rows."""
    if settings.train is None or settings.pairs is None:
        return None
    collected = [arms[arm] for arm in settings.pairs.arms]
    contexts = [length for arm in collected for length in arm["walk"][1:] or arm["walk"]]
    rows = 2 * min(settings.pairs.max_pairs, sum(arm["expected"]["turns"] for arm in collected))
    tokens = (
        len(settings.train.runs()) * rows * settings.train.recipe.epochs * (sum(contexts) / len(contexts) + reply) / 2
    )
    rate = profile.get("train_tokens_per_s")
    return {"rows_each": rows, "tokens": round(tokens),
            "hours": None if rate is None else tokens / (rate * settings.train.recipe.processes) / 3600}  # fmt: skip


def _evals(settings: StudySettings, reply: float, profile: Mapping[str, Any]) -> dict[str, Any]:
    """Questions, tokens, judge calls, dollars and hours of the transfer evals, over all arms that are asked."""
    nothing = {"arms": 0, "asks": 0, "replies": 0, "reply_tokens": 0, "judge_calls": 0, "judge_usd": 0.0, "hours": 0.0}
    if not settings.evals:
        return nothing
    from placid.evals import load_all
    from placid.evals.running import check

    tasks = load_all(settings.evals)
    plans = check(tasks)
    arms = 1 + sum(arm.adapter is not None for arm in settings.arms.values())
    arms += len(settings.train.runs()) if settings.train else 0
    asks = {ask.name: ask for rows in plans.values() for row in rows.rows for ask in row.asks.values()}
    replies = arms * sum(1 + len(ask.then) for ask in asks.values() if not ask.choices)
    tokens = arms * sum(
        (1 + len(ask.then)) * min(reply, CUT * ask.max_tokens) for ask in asks.values() if not ask.choices
    )
    calls = arms * sum(len(rows.rows) for name, rows in plans.items() if tasks[name].judged_by)
    graded = {"turns": calls, "reply_tokens": round(calls * reply)}
    rate = profile.get("turns_per_s")
    work = replies / rate if rate else tokens / profile["reply_tokens_per_s"]
    return {
        "arms": arms, "asks": arms * len(asks), "replies": replies, "reply_tokens": round(tokens),
        "judge_calls": calls, "judge_usd": _judging(settings.judge, graded, calls)["judge_usd"] if calls else 0.0,
        "hours": (work + profile["start_s"]) / 3600,
    }  # fmt: skip


def _totals(
    settings: StudySettings,
    arms: Mapping[str, Any],
    profile: Mapping[str, Any],
    training: Mapping[str, Any] | None,
    evals: Mapping[str, Any],
) -> dict[str, Any]:
    names = ("turns", "reply_tokens", "prompt_tokens", "cached_tokens")
    expected, most = (
        {name: sum(arm[kind][name] for arm in arms.values()) for name in names} for kind in ("expected", "most")
    )
    conversations = sum(arm["conversations"] for arm in arms.values())
    starts = 1 + bool(settings.interventions) + bool(settings.train)
    rate = profile.get("turns_per_s")
    work = expected["turns"] / rate if rate else expected["reply_tokens"] / profile["reply_tokens_per_s"]
    hours = (work / settings.workers + starts * profile["start_s"]) / 3600
    trained = 0.0 if training is None else training["hours"]
    ranks = settings.train.recipe.processes if settings.train and profile["gpus"] else 0
    line = LINE_BYTES + TOKEN_BYTES * (3 if settings.logprobs else 1) * expected["reply_tokens"] / max(
        1, expected["turns"]
    )
    return {
        "conversations": conversations,
        "engines": settings.workers,
        "expected": expected,
        "most": most,
        "rollout_hours": hours,
        "training_hours": trained,
        "gpu_hours": None
        if trained is None
        else profile["gpus"] * (settings.workers * hours + evals["hours"]) + ranks * trained,
        "disk_mib": round(expected["turns"] * (1.5 * line + VERDICT_BYTES) / 2**20, 1),
        "files": FILES + settings.workers * starts + 2,
        **_judging(settings.judge, expected, conversations),
    }


def _judging(judge: JudgeSettings, expected: Mapping[str, int], conversations: int) -> dict[str, Any]:
    """Calls, tokens, dollars and the shortest time of a judge behind an API; none for the lexical one."""
    if judge.kind in ("lexical", "replay"):
        return {"judge_calls": 0, "judge_in": 0, "judge_out": 0, "judge_usd": 0.0, "judge_hours": 0.0}
    from placid.judge.rubric import load_rubric

    rubric = load_rubric(judge.rubric)
    words = len(rubric.template) // 4  # about 4 characters a token
    calls = expected["turns"] if rubric.head.unit == "turn" else conversations
    tokens_in, tokens_out = calls * words + expected["reply_tokens"], expected["turns"] * VERDICT_TOKENS
    usd_in, usd_out = judge.prices(judge.service_tier) if judge.kind == "gemini" else (0.0, 0.0)
    return {
        "judge_calls": calls, "judge_in": tokens_in, "judge_out": tokens_out,
        "judge_usd": None if usd_in is None or usd_out is None else (tokens_in * usd_in + tokens_out * usd_out) / 1e6,
        "judge_hours": max(calls / judge.limits.rpm, tokens_in / judge.limits.tpm) / judge.limits.share / 60,
    }  # fmt: skip


def _memory(settings: StudySettings) -> dict[str, Any] | None:
    """The weights, and how many whole conversations an engine's cache holds; None: this study serves no weights."""
    if settings.engine.kind != "vllm":
        return None
    model, engine = models.read(settings.model), settings.engine
    longest = max(arm.turns for arm in settings.arms.values())
    tokens = min(engine.context_tokens, models.final_tokens(longest, settings.max_tokens))
    each = model.kv_bytes(tokens, engine.tensor_parallel)
    return {
        "parameters": model.parameters, "weights_gib": 2 * model.parameters / engine.tensor_parallel / 2**30,
        "conversation_tokens": tokens, "conversation_mib": each / 2**20, "kv_gib": engine.kv_gib,
        "held": math.floor(engine.kv_gib * 2**30 / each),
    }  # fmt: skip


def _detectable(settings: StudySettings, profile: Mapping[str, Any]) -> dict[str, Any]:
    """Smallest difference between two arms of the evaluation that a paired t test finds 80 times in 100."""
    from placid.inputs.prompts import read_prompts
    from placid.report import stats

    prompts, samples = len(read_prompts(settings.prompts)), settings.samples
    return {
        "prompts": prompts, "samples": samples, "sd": profile["sd"], "icc": profile["icc"],
        "auc": stats.detectable(prompts, samples, profile["sd"], profile["icc"]),
        "deletion": stats.detectable(prompts, samples, 0.5, profile["icc"]),
    }  # fmt: skip


def record(settings: StudySettings, run_dir: RunDir) -> None:
    """Write plan.json once. It is made of the config alone, so what was held meanwhile changes nothing."""
    if not (run_dir.path / FILE).is_file():
        write_json(run_dir.path / FILE, plan(settings))


def _points(difference: float) -> str:
    """A difference of two rates; so few conversations may show none at all."""
    return f"{100 * difference:.1f} points" if difference <= 1 else "none (too few conversations)"


def table_text(found: Mapping[str, Any]) -> str:
    """For a terminal."""
    head = (
        "arm", "conversations", "turns", "reply tokens", "prompt tokens", "of these cached", "at most: turns",
        "prompt tokens",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = [head]
    for name, arm in [*found["arms"].items(), ("all", found["totals"])]:
        e, m = arm["expected"], arm["most"]
        rows.append((name, *(f"{v:,}" for v in (arm["conversations"], e["turns"], e["reply_tokens"], e["prompt_tokens"],
                                                e["cached_tokens"], m["turns"], m["prompt_tokens"]))))  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        f"{row[0]:<{widths[0]}}  " + "  ".join(f"{v:>{w}}" for v, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    t, d, a = found["totals"], found["detectable"], found["profile"]
    computed = t["expected"]["prompt_tokens"] - t["expected"]["cached_tokens"]
    lines += ["", f"prefill     {computed:,} prompt tokens are computed, the others come from the prefix cache"]
    lines += [f"judge       {t['judge_calls']:,} calls, {t['judge_in']:,} tokens in, {t['judge_out']:,} out, "
              f"{_dollars(t['judge_usd'])}; at least {_hours(t['judge_hours'])} at the quota"]  # fmt: skip
    if found["judge_notice"]:
        lines.append(f"            {found['judge_notice']}")
    if found["training"]:
        rows, tokens, hours = (found["training"][key] for key in ("rows_each", "tokens", "hours"))
        lines.append(f"training    {rows:,} rows a treatment, {tokens:,} tokens in all, {_hours(hours)}")
    m = found["memory"]
    if m:
        few = "" if m["held"] else "; raise it"
        lines.append(
            f"memory      {m['parameters'] / 1e6:,.1f} million parameters, {m['weights_gib']:.1f} GiB of weights a GPU "
            f"(bf16); a conversation of {m['conversation_tokens']:,} tokens keeps {m['conversation_mib']:,.1f} MiB "
            f"there, engine.kv_gib = {m['kv_gib']:g} holds {m['held']:,} whole{few}"
        )
    gpu = "not known" if t["gpu_hours"] is None else f"{t['gpu_hours']:.1f}"
    lines += [
        f"time        rollouts {_hours(t['rollout_hours'])} on {t['engines']} engine(s); GPU-hours {gpu}",
        f"disk        {t['disk_mib']:,} MiB in about {t['files']} files",
        f"detectable  AUC difference {d['auc']:.2f}, deletion rate difference {_points(d['deletion'])} "
        f"(80 % power, {d['prompts']} prompts x {d['samples']}, sd {d['sd']}, ICC {d['icc']})"
        if d["auc"] is not None else "detectable  nothing with one prompt",
        f"assumed     {a['reply_tokens']:.0f} tokens a reply, {100 * a['hazard']:.1f} % delete themselves a rejected "
        f"turn after turn {a['onset']} where offered ({a['source']})",
    ]  # fmt: skip
    return "\n".join(lines)


def stages_text(estimates: Mapping[str, Any]) -> str:
    """For a terminal: a line a stage. estimates: stage → study.stages.Estimate."""
    rows = [("stage", "replies", "tokens", "judge calls", "dollars", "time")]
    for name, e in estimates.items():
        dollars = "not known" if e.usd is None else f"{e.usd:.2f}"
        rows.append((name, f"{e.turns:,}", f"{e.tokens:,}", f"{e.calls:,}", dollars, _hours(e.hours)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines: list[str] = []
    for name, *values in rows:
        cells = (f"{value:>{width}}" for value, width in zip(values, widths[1:], strict=True))
        lines.append(f"{name:<{widths[0]}}  " + "  ".join(cells))
    return "\n".join(lines)


def _hours(value: float | None) -> str:
    if value is None:
        return "time not known"
    return f"{value:.1f} h" if value >= 1 else f"{60 * value:.1f} min"


def _dollars(value: float | None) -> str:
    return "price not known" if value is None else f"{value:.2f} dollars"
