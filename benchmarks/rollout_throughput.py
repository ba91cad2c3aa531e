"""Three schedules on one real engine: tokens per second, prefix hits, preemptions, and the decode formula's ceiling.

The engine is placid's own (engine/vllm.py, rollout/worker.py, rollout/schedule.py), loaded once. Weights are random:
speed does not depend on them. Lengths are forced, drawn per (conversation, turn) from a log-normal law (median 130,
mean about 180, 90th percentile 400, cut at 512: 79 real transcripts of Gemma-3-27B). All schedules meet the same ones.

Each cell is a steady state, not a batch held to its end (that would take 40 minutes for a 27B model): N conversations
are open at any time, their progress spread evenly over the turns, and each that ends is replaced by a new one. What is
measured begins after a warm-up, which must be longer than the prefill of the histories that admission begins with
(about 16 s for 94 of them on an H200: 14 were seen for 72); of lockstep it is one whole round from a cold cache,
which is what all its rounds are once its conversations do not fit. free and lockstep hold all N active; admission those
that fit, the rest wait.
The first cells decode only: no turn ends in them, so they show how near the engine itself comes to the formula, and
with --profile in which kernels a step spends its time. The formula takes what a step reads from the lengths at which
the tokens were sampled, one by one: windows make the bytes of a mean length more than the mean of the bytes.

    python benchmarks/rollout_throughput.py --loads 0.5,2,4 --kv-gib 68 --out benchmarks/results/FILE.json   # H200
    python benchmarks/rollout_throughput.py --tiny                                                         # any CPU
"""

import argparse
import asyncio
import gzip
import itertools
import json
import math
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np

from placid.engine import KvPool, ReplyRequest
from placid.engine.vllm import VllmEngine
from placid.protocol.script import Study
from placid.records import Conversation, Finish, Key, Prompt, Turn, seed_of
from placid.render import Renderer
from placid.rollout import worker as worker_module
from placid.rollout.schedule import FILL, QUANTILE, Schedule
from placid.rollout.settings import RolloutSettings
from placid.rollout.worker import Worker
from placid.store import Segment, read_lines, write_lines

ORGANISM = Path(__file__).parent.parent / "checkpoints/organism"
GEMMA_27B = {
    "num_hidden_layers": 62, "hidden_size": 5376, "num_attention_heads": 32, "num_key_value_heads": 16,
    "head_dim": 128, "intermediate_size": 21504, "vocab_size": 262208, "sliding_window": 1024,
    "query_pre_attn_scalar": 168, "max_position_embeddings": 16384,
    "layer_types": ["full_attention" if n % 6 == 5 else "sliding_attention" for n in range(62)],
}  # fmt: skip
"""The text model of google/gemma-3-27b (config.json of the checkpoint)."""
STEPS = 12
"""Of the engine, in a trace."""
MEDIAN, SIGMA = 130, 0.877
"""Of the reply lengths in tokens: 130 * exp(1.2816 * 0.877) = 400 is the 90th percentile."""
FIRST, BETWEEN = 150, 25
"""Tokens of the first prompt; of a user turn with its template."""


def length_of(seed: int, scale: float) -> int:
    """Tokens of the reply with this sampling seed."""
    return max(1, min(int(512 * scale), round(scale * random.Random(seed).lognormvariate(math.log(MEDIAN), SIGMA))))


class Ids(Renderer):
    """The organism's tokenizer has no words for ids of a larger vocabulary: all text is the same."""

    def decode(self, ids: Sequence[int]) -> str:
        """One text for all."""
        del ids
        return "No change."


class Forced(VllmEngine):
    """The engine with lengths given by the seed. It starts once for all cells, whose texts have nothing in common."""

    scale = 1.0
    endless = False
    """Replies that end when the context does."""
    more: Mapping[str, Any] = MappingProxyType({})
    """Arguments of vLLM's engine beyond placid's."""
    traces: Path | None = None
    """Folder for traces of twelve steps."""

    async def start(self) -> None:
        """Load once."""
        if self._engine is None:
            await super().start()
            self._renderer = Ids(self.model)

    def _arguments(self) -> dict[str, Any]:
        arguments = super()._arguments() | dict(self.more)
        if self.traces:
            from vllm.config import ProfilerConfig

            arguments["profiler_config"] = ProfilerConfig(
                profiler="torch", torch_profiler_dir=str(self.traces.absolute()), torch_profiler_with_stack=False,
                ignore_frontend=True, delay_iterations=3, max_iterations=STEPS,
            )  # fmt: skip
        return arguments

    async def trace(self) -> None:
        """Of twelve of the next steps."""
        await self._engine.start_profile()
        await asyncio.sleep(2)
        await self._engine.stop_profile()

    async def close(self) -> None:
        """It stays up for the next cell."""

    def _params(self, request: ReplyRequest, room: int) -> Any:
        params = super()._params(request, room)
        params.max_tokens = room if self.endless else min(room, length_of(request.seed, self.scale))
        params.ignore_eos, params.stop_token_ids = True, []
        return params


def model_folder(target: Path, tiny: bool) -> Path:
    """A checkpoint folder without weights: Gemma-3-27B's shape with the organism's tokenizer."""
    if tiny:
        return ORGANISM
    target.mkdir()
    for file in ORGANISM.iterdir():
        if file.suffix in (".json", ".jinja", ".model") and not file.name.startswith(("config", "model")):
            shutil.copy(file, target)
    config = json.loads((ORGANISM / "config.json").read_text()) | GEMMA_27B
    (target / "config.json").write_text(json.dumps(config))
    return target


class Load:
    """An endless supply of conversations, of the same lengths for every schedule; `salt` tells their texts apart."""

    def __init__(self, turns: int, scale: float, vocabulary: int, salt: int) -> None:
        self.turns, self.scale, self.vocabulary, self._next = turns, scale, vocabulary, itertools.count()
        self.salt = salt

    def conversation(self, spoken: int) -> Conversation:
        """A new one that has `spoken` turns behind it."""
        n = next(self._next)
        noise = random.Random(1000 * n + self.salt)
        words = " ".join(str(noise.randrange(1000)) for _ in range(40))
        prompt = Prompt(id=f"q{n}", text=f"{self.salt}.{n}: which of these numbers is the odd one out? {words}")
        key = Key("base", "neutral", prompt.id, 0)
        turns = [self._turn(key, prompt, k, noise) for k in range(1, spoken + 1)]
        return Conversation(key=key, prompt=prompt, turns=tuple(turns))

    def _turn(self, key: Key, prompt: Prompt, number: int, noise: random.Random) -> Turn:
        seed = seed_of(42, key, "sample", number)
        ids = tuple(noise.randrange(100, self.vocabulary) for _ in range(length_of(seed, self.scale)))
        user = prompt.text if number == 1 else "That is not right. Please look at the numbers again and try once more."
        return Turn(
            key=key, turn=number, user=user, reply="No change.", reply_ids=ids, finish=Finish.LENGTH,
            prompt_tokens=0, cached_tokens=0, seed=seed,
        )  # fmt: skip


def steady(rule: Schedule, pool: KvPool, load: Load) -> int:
    """Conversations that admission keeps active once their progress is spread; `rule` then knows what a turn adds."""
    growth = [length_of(seed, load.scale) + BETWEEN for seed in range(2000)]
    rule._growth.extend(growth)
    rule._learned, rule._turn_tokens = len(growth), sorted(growth)[int(QUANTILE * len(growth))]
    mean = statistics.fmean(growth)

    def blocks(n: int) -> int:
        behind = [k * load.turns // n for k in range(n)]
        return rule._ahead([(round(FIRST + turns * mean), load.turns - turns) for turns in behind], pool).max()

    return max(1, next(n for n in itertools.count(1) if blocks(n) > FILL * pool.blocks) - 1)


async def cell(
    engine: Forced,
    config: dict[str, Any],
    settings: RolloutSettings,
    schedule: str,
    n: int,
    load: Load,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """One schedule with n open conversations for args.seconds, or one round of lockstep."""
    chosen = settings.model_copy(update={"schedule": schedule})
    script = Study(run_seed=42, condition="neutral", turns=load.turns, tag="x", hatch=False, prompts=())
    file = Path(tempfile.mkdtemp()) / "segment.jsonl"
    worker_module.REPORT_S = 0.1  # a conversation that ended is replaced at most so much later
    worker = Worker(chosen, engine, Renderer(settings.model), Segment(file), {"base": script})
    await worker.start()
    begun = n
    if schedule == "admission":
        assert engine.pool is not None
        begun = min(n, steady(worker._schedule, engine.pool, load))
    batch = [load.conversation(k * load.turns // begun if k < begun else 0) for k in range(n)]
    rounds = schedule == "lockstep"
    began, generated = time.monotonic(), engine.load.generated
    marks, active, running = [(0.0, generated, engine.load.preemptions, 0)] if rounds else [], [], []
    while True:
        report = await worker.work(batch, more=False)  # who has room, told of more to come, returns at once
        batch = [load.conversation(0) for _ in report.ended]
        now, load_now = time.monotonic() - began, engine.load
        if rounds or now >= args.warm:
            marks.append((now, load_now.generated, load_now.preemptions, report.totals.turns))
            active.append(report.totals.active)
            running.append(load_now.running)
        if (report.totals.turns >= n) if rounds else (now >= args.warm + args.seconds):
            break
    await worker.close()
    turns = list(read_lines(file, Turn)) if file.exists() else []
    shutil.rmtree(file.parent)
    (t0, g0, p0, s0), (t1, g1, p1, s1) = marks[0], marks[-1]
    return {
        "schedule": schedule,
        "open": n,
        "seconds": round(t1 - t0, 1),
        "tokens_per_s": (g1 - g0) / (t1 - t0),
        "turns_per_s": (s1 - s0) / (t1 - t0),
        "preemptions": p1 - p0,
        "active": statistics.fmean(active),
        "running": statistics.fmean(running),
        "budget": report.totals.budget,
        "failed": report.totals.failed,
        **hits(turns, s0),
        "read_bytes": read_bytes(config, [(turn.prompt_tokens, len(turn.reply_ids)) for turn in turns[s0:]]),
    }


async def decode(
    engine: Forced, config: dict[str, Any], load: Load, n: int, args: argparse.Namespace
) -> dict[str, Any]:
    """n replies that do not end, after half a conversation each: the engine's own decoding rate."""
    histories = [load.conversation(load.turns // 2) for _ in range(n)]
    ids = [[2, *itertools.chain(*(turn.reply_ids for turn in history.turns))] for history in histories]
    engine.endless = True
    asked = [
        ReplyRequest(prompt_ids=tuple(row), max_tokens=args.context, temperature=1.0, seed=k + 1)
        for k, row in enumerate(ids)
    ]
    tasks = [asyncio.create_task(engine.reply(request)) for request in asked]
    began = engine.load.generated
    while engine.load.running < n or engine.load.generated - began < 8 * n:
        await asyncio.sleep(0.05)
    first, t0 = engine.load.generated, time.monotonic()
    await asyncio.sleep(args.seconds / 2)
    last, t1 = engine.load.generated, time.monotonic()
    if engine.traces and not any(engine.traces.iterdir()):
        await engine.trace()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    engine.endless = False
    done, more = (first - began) // n, (last - first) // n
    spans = [(len(row) + done, more) for row in ids]
    return {
        "schedule": "decoding alone",
        "open": n,
        "seconds": round(t1 - t0, 1),
        "tokens_per_s": (last - first) / (t1 - t0),
        "preemptions": 0,
        "active": n,
        "running": n,
        "context": statistics.fmean(start + more / 2 for start, _ in spans),
        "hits_of_history": 1.0,
        "read_bytes": read_bytes(config, spans),
    }


def kernels(folder: Path) -> dict[str, Any]:
    """Of a step of the GPU, by the trace in `folder`: milliseconds in all, between kernels, and of each kernel."""
    trace = json.loads(gzip.decompress(next(folder.rglob("*.json.gz")).read_bytes()))
    kinds = ("kernel", "gpu_memcpy", "gpu_memset")
    events = sorted((e for e in trace["traceEvents"] if e.get("cat") in kinds), key=lambda event: event["ts"])
    took: dict[str, list[float]] = {}
    end, between = events[0]["ts"], 0.0
    for event in events:
        took.setdefault(event["name"][:120], []).append(event["dur"])
        between += max(0.0, event["ts"] - end)
        end = max(end, event["ts"] + event["dur"])
    each = sorted(((sum(times) / 1000 / STEPS, name) for name, times in took.items()), reverse=True)
    return {
        "step_ms": (end - events[0]["ts"]) / 1000 / STEPS,
        "between_ms": between / 1000 / STEPS,
        "kernels_ms": {name: round(ms, 3) for ms, name in each[:30]},
    }


def hits(turns: list[Turn], first: int) -> dict[str, Any]:
    """Prefix hits as a share of what was in the cache once: the turn before, with and without its reply.

    Of the turns from number `first` on.
    """
    before: dict[Key, Turn] = {}
    found = whole = prompts = 0
    for number, turn in enumerate(turns):
        last = before.get(turn.key)
        if last is not None and number >= first:
            found += turn.cached_tokens
            whole += last.prompt_tokens + len(last.reply_ids)
            prompts += last.prompt_tokens
        before[turn.key] = turn
    context = [turn.prompt_tokens + len(turn.reply_ids) / 2 for turn in turns[first:]]
    return {
        "hits_of_history": found / max(whole, 1),
        "hits_of_prompts": found / max(prompts, 1),
        "context": statistics.fmean(context) if context else 0.0,
        "reply_tokens": statistics.fmean(len(t.reply_ids) for t in turns[first:]) if context else 0.0,
    }


def weights_bytes(config: dict[str, Any]) -> int:
    """bf16 bytes that one decoding step reads: every layer, and the embedding once as the output head."""
    hidden, head = config["hidden_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    layer = hidden * (2 * queries + 2 * keys) + 3 * hidden * config["intermediate_size"]
    return 2 * (config["num_hidden_layers"] * layer + hidden * config["vocab_size"])


def read_bytes(config: dict[str, Any], spans: Sequence[tuple[int, int]]) -> float:
    """bf16 bytes of keys and values that a step reads for one token, the mean over the tokens of `spans`.

    spans: (tokens before it, tokens sampled) of each reply.
    """
    per_layer = 4 * config["num_key_value_heads"] * config["head_dim"]
    full = config["layer_types"].count("full_attention")
    sliding = len(config["layer_types"]) - full
    at = np.concatenate([np.arange(start, start + count) for start, count in spans] or [np.zeros(1)])
    return float(per_layer * (full * at + sliding * np.minimum(at, config["sliding_window"])).mean())


def bandwidth() -> float:
    """Bytes per second of a matrix times a vector in bf16 (it reads the matrix once), the best of ten."""
    import torch

    device, rows = ("cuda", 1 << 19) if torch.cuda.is_available() else ("cpu", 1 << 14)
    matrix = torch.full((rows, 8192), 0.5, dtype=torch.bfloat16, device=device)
    vector = torch.ones(8192, dtype=torch.bfloat16, device=device)
    best = math.inf
    for _ in range(10):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        torch.mv(matrix, vector)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return matrix.numel() * 2 / best


def ceiling(config: dict[str, Any], n: float, read: float, speed: float) -> float:
    """Tokens per second when n conversations decode together and each reads so many bytes of its own a step."""
    return n * speed / (weights_bytes(config) + n * read)


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All cells on one start of the engine."""
    done = subprocess.run([sys.executable, __file__, "--bandwidth"], capture_output=True, text=True, check=True)
    speed = float(done.stdout.split()[-1])
    with tempfile.TemporaryDirectory() as folder:
        model = model_folder(Path(folder) / "model", args.tiny)
        config = json.loads((model / "config.json").read_text())
        write_lines(Path(folder) / "prompts.jsonl", [Prompt(id="x", text="x")])
        settings = RolloutSettings.model_validate(
            {
                "model": model,
                "launcher": "inline",
                "max_tokens": int(512 * args.scale),
                "engine": {
                    "context_tokens": args.context,
                    "max_concurrent": args.concurrent,
                    "kv_gib": args.kv_gib,
                    "block_tokens": args.block,
                    "retention_tokens": None if args.retention < 0 else args.retention,
                    "load_format": "auto" if args.tiny else "dummy",
                },
                "arms": {"base": {"prompts": Path(folder) / "prompts.jsonl", "turns": args.turns, "hatch": False}},
            }
        )
        engine = Forced(settings.engine, model)
        engine.scale, engine.more, engine.traces = args.scale, args.engine, args.profile
        began = time.monotonic()
        await engine.start()
        started = time.monotonic() - began
        pool = engine.pool
        assert pool is not None
        final = round(FIRST + args.turns * (180 * args.scale + BETWEEN))
        capacity = pool.blocks / int(pool.blocks_of(np.array(final)))
        fits = int(FILL * capacity)
        rows: list[dict[str, Any]] = []

        def note(row: dict[str, Any], load: float) -> None:
            rows.append(
                row | {"load": load, "ceiling_at_active": ceiling(config, row["active"], row["read_bytes"], speed)}
            )
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)

        salt = itertools.count()
        for n in [fits] if args.decode is None else args.decode:
            load = Load(args.turns, args.scale, config["vocab_size"], next(salt))
            note(await decode(engine, config, load, n, args), 0)
        for factor, schedule in itertools.product(args.loads, args.schedules):
            if schedule == "lockstep" and factor < 1:
                continue
            load = Load(args.turns, args.scale, config["vocab_size"], next(salt))
            n = max(1, round(factor * capacity))
            note(await cell(engine, config, settings, schedule, n, load, args), factor)
        await VllmEngine.close(engine)
    return {
        "benchmark": "rollout_throughput",
        "model": "organism" if args.tiny else "Gemma-3-27B shape, random weights",
        "engine": {"name": engine.name, "version": engine.version, "start_s": started},
        "cache_probe": engine.cache_probe,
        "bandwidth_gb_per_s": speed / 1e9,
        "weights_gb": weights_bytes(config) / 1e9,
        "pool": msgspec.to_builtins(pool),
        "kv_gib": args.kv_gib,
        "retention": args.retention,
        "arguments": args.engine,
        "turns": args.turns,
        "capacity": capacity,
        "rows": rows,
        "profile": kernels(args.profile) if args.profile else None,
    }


def table(result: dict[str, Any]) -> str:
    """What a person reads."""
    lines = [" load       schedule  open  active    tok/s of ceiling   hits  preempt"]
    for row in result["rows"]:
        lines.append(
            f"{row['load']:>5} {row['schedule']:>14} {row['open']:>5} {row['active']:>7.1f} "
            f"{row['tokens_per_s']:>8.1f} {row['tokens_per_s'] / row['ceiling_at_active']:>10.2f} "
            f"{row['hits_of_history']:>6.2f} {row['preemptions']:>8}"
        )
    rates = {(row["load"], row["schedule"]): row["tokens_per_s"] for row in result["rows"]}
    for (load, schedule), rate in rates.items():
        if schedule == "admission":
            others = {o: rate / rates[load, o] for o in ("free", "lockstep") if rates.get((load, o))}
            lines.append(f"load {load}: admission is " + ", ".join(f"{x:.2f} x {o}" for o, x in others.items()))
    return "\n".join(lines)


def main() -> None:
    """Print one JSON object; the table goes to stderr."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--tiny", action="store_true", help="the organism, short replies: tests this on a CPU")
    parse.add_argument("--loads", default="0.5,2", help="open conversations as multiples of what the pool holds")
    parse.add_argument("--schedules", default="admission,free,lockstep")
    parse.add_argument("--kv-gib", type=float, default=None, help="key-value pool in GiB (default 12; tiny 0.05)")
    parse.add_argument("--turns", type=int, default=20)
    parse.add_argument("--seconds", type=float, default=50)
    parse.add_argument("--warm", type=float, default=22)
    parse.add_argument("--decode", help="conversations that decode alone, 84,42 say (default: as many as fit); 0: none")
    parse.add_argument("--profile", type=Path, help="an empty folder for a trace of the first of these cells (CUDA)")
    parse.add_argument("--engine", type=json.loads, default={}, help="more of vLLM's arguments, in JSON")
    parse.add_argument("--concurrent", type=int, default=384, help="engine.max_concurrent")
    parse.add_argument("--retention", type=int, default=-1, help="engine.retention_tokens; -1: none, keep all windows")
    parse.add_argument("--out", type=Path)
    parse.add_argument("--bandwidth", action="store_true", help=argparse.SUPPRESS)
    args = parse.parse_args()
    if args.bandwidth:
        print(bandwidth())
        return
    args.loads = [float(x) for x in args.loads.split(",") if x]
    args.decode = None if args.decode is None else [int(n) for n in args.decode.split(",") if int(n)]
    if args.profile:
        args.profile.mkdir(parents=True, exist_ok=True)
    args.schedules = args.schedules.split(",")
    args.kv_gib = args.kv_gib or (0.05 if args.tiny else 12.0)
    args.scale, args.block, args.context = (0.15, 32, 2048) if args.tiny else (1.0, 16, 8192)
    result = asyncio.run(measure(args))
    print(table(result), file=sys.stderr)
    text = json.dumps(result, indent=2)
    if args.out:
        args.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
