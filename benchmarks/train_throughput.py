"""Training throughput on one GPU: placid's packs against transformers + peft + Liger and against TRL, in one run.

    python benchmarks/train_throughput.py [--layers 40] [--parts check,pairs,trl] [--out FILE.json]

Random weights of Gemma-3-27B's shape are made on the GPU in bfloat16, no file is read; both sides get the same module
with the same `--layers`. LoRA r 8 on q,v, torch.optim.AdamW, no DeepSpeed: on one GPU there is nothing to split.

  check  FlexAttention against the dense mask: loss and gradients of one tree in a 6-layer shape
  pairs  ours on one 20-turn conversation a step: trunk about 4k tokens, 12 targets of 150 tokens, as one tree
  plain  2 x 4,096 tokens a step, every token learns: ours, then transformers + peft + Liger with full recompute
         (its usual setting), then the same with the least recompute that fits, one sequence at a time
  trl    TRL's SFTTrainer with packing and Liger on the same conversations as `pairs`; not after `plain`, whose Liger
         kernels stay on the module: TRL puts its own on and fails
  full   every weight trains (bfloat16, float32 masters in DeepSpeed), in a shape of --full-layers layers

Each result is printed as one JSON line as soon as it is known, all of them at the end as a table and one object.
MFU counts 4N FLOPs a token for LoRA, 6N for full training (no recompute, no attention), against the data sheet: 989e12.
"""

import argparse
import gc
import json
import random
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma3TextConfig

from placid.render import Rendered
from placid.train import attention, fused, model, tree
from placid.train.data import Example
from placid.train.losses.cross_entropy import CrossEntropy

PEAK = 989e12
"""Dense bfloat16 FLOP/s of an H100 or H200 SXM as NVIDIA states it."""
LADDER = ((0.0, 0.0), (0.0, 0.25), (0.0, 0.5), (0.0, 1.0), (0.3, 1.0), (0.6, 1.0), (1.0, 0.0))
"""(share of layers recomputed, share of the rest whose MLP is) from fast and large to slow and small."""
SAID: list[dict[str, Any]] = []


def say(**facts: object) -> None:
    """One JSON line, kept for the table."""
    SAID.append(facts)
    print(json.dumps(facts), flush=True)


def base(layers: int, tiny: bool, dtype: torch.dtype = torch.bfloat16) -> Any:
    """Gemma-3-27B's shape, or a toy one, with random weights."""
    small = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    large = {"hidden_size": 5376, "intermediate_size": 21504, "num_attention_heads": 32, "num_key_value_heads": 16}
    config = Gemma3TextConfig(
        **(small if tiny else large),
        head_dim=32 if tiny else 128,
        vocab_size=1728 if tiny else 262_208,
        num_hidden_layers=layers,
        query_pre_attn_scalar=168,
        sliding_window=100 if tiny else 1024,
        max_position_embeddings=131_072,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        made = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention.NAME)
    fused.fuse(made)
    return made


def adapted(made: Any) -> Any:
    lora = LoraConfig(
        r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    return get_peft_model(made, lora, autocast_adapter_dtype=False)


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def gib() -> float:
    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else 0.0


def timed(step: Callable[[], None], steps: int) -> tuple[float, float]:
    """Seconds a step after two warm-up steps, and peak memory in GiB."""
    for _ in range(2):
        step()
    wait()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    for _ in range(steps):
        step()
    wait()
    return (time.monotonic() - began) / steps, gib()


def least_recompute(causal: Any, step: Callable[[], None], steps: int) -> tuple[tuple[float, float], float, float]:
    """((layers, MLPs) recomputed, seconds a step, GiB) with the least recomputation that fits into memory."""
    for layers, mlps in LADDER:
        fused.recompute(causal, layers, mlps)
        try:
            return (layers, mlps), *timed(step, steps)
        except torch.cuda.OutOfMemoryError:
            say(note="does not fit", layers=layers, mlps=mlps)
        gc.collect()
        torch.cuda.empty_cache()
    raise SystemExit("not even full recompute fits; use fewer --layers")


def stepper(learner: model.Learner, packs: list[list[Example]]) -> Callable[[], None]:
    """One optimizer step of placid: one pack after the other."""
    adam = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=1e-6)

    def step() -> None:
        for pack in packs:
            (learner(pack) / 1000).backward()
        adam.step()
        adam.zero_grad()

    return step


def documents(tokens: int, top: int) -> list[list[Example]]:
    """Two packs of one document each, every token learns."""
    draw = random.Random(0)
    ids = [[draw.randrange(3, top) for _ in range(tokens)] for _ in range(2)]
    return [[Example((Rendered(row, [True] * tokens),))] for row in ids]


def conversation(top: int, trunk: int, pairs: int = 12, target: int = 150) -> list[Example]:
    """Pairs of one 20-turn conversation: each context is a beginning of one trunk, that of turn 20 all of it."""
    draw = random.Random(1)
    whole = [draw.randrange(3, top) for _ in range(trunk)]
    rows = []
    for n in range(pairs):
        cut = trunk * (20 - pairs + 1 + n) // 20
        tail = [draw.randrange(3, top) for _ in range(target)]
        rows.append(Example((Rendered(whole[:cut] + tail, [False] * cut + [True] * target),)))
    return rows


def mfu(causal: Any, tokens: float, seconds: float, trained: bool = False) -> float:
    return round((6 if trained else 4) * sum(p.numel() for p in causal.parameters()) * tokens / seconds / PEAK, 4)


def check(a: argparse.Namespace) -> None:
    """The GPU's mask and kernels against the dense mask: in float32 to 1e-3, in bfloat16 to its rounding."""
    for dtype, bound in ((torch.float32, 1e-3), (torch.bfloat16, 0.1)):
        made = base(6, a.tiny, dtype)
        learner = model.Learner(adapted(made), CrossEntropy()).train()
        rows = conversation(made.config.vocab_size, a.tokens // 2, 4, 32)
        trained = [p for p in learner.parameters() if p.requires_grad]
        results = []
        fast = attention._blocks
        for mask in (fast, attention.dense):
            attention._blocks = mask
            loss = learner(rows)
            loss.backward()
            results.append((loss.item(), torch.cat([p.grad.flatten().float() for p in trained])))
            learner.zero_grad()
        attention._blocks = fast
        (flex, flex_grad), (dense, dense_grad) = results
        distance = ((flex_grad - dense_grad).norm() / dense_grad.norm()).item()
        say(part="check", dtype=str(dtype), loss_flex=flex, loss_dense=dense, gradient_distance=distance)
        if not (abs(flex - dense) < bound * abs(dense) and distance < bound):
            raise SystemExit("FlexAttention disagrees with the dense mask: no timing is worth anything")


def pairs(a: argparse.Namespace, peft: Any, top: int) -> None:
    causal = peft.get_base_model()
    rows = conversation(top, a.tokens - 96, target=a.target)
    learner, ids = model.Learner(peft, CrossEntropy()).train(), [row.rows[0].ids for row in rows]
    tokens = tree.size(ids)
    say(part="pairs", row_tokens=tree.size(ids, False), tree_tokens=tokens, rows=len(rows))
    shares, seconds, peak = least_recompute(causal, stepper(learner, [rows]), a.steps)
    rate = len(rows) / seconds
    say(part="pairs", side="placid", pairs_s=rate, mfu=mfu(causal, tokens, seconds), peak_gib=peak, recompute=shares)


def plain(a: argparse.Namespace, peft: Any, top: int) -> None:
    causal, packs = peft.get_base_model(), documents(a.tokens, top)
    tokens = 2 * a.tokens
    shares, seconds, peak = least_recompute(
        causal, stepper(model.Learner(peft, CrossEntropy(), share=False).train(), packs), a.steps
    )
    say(
        part="plain", side="placid", tokens_s=tokens / seconds, mfu=mfu(causal, tokens, seconds), peak_gib=peak,
        recompute=shares,
    )  # fmt: skip
    with_liger(causal)
    ids = torch.tensor([pack[0].rows[0].ids for pack in packs], device=next(peft.parameters()).device)
    adam = torch.optim.AdamW([p for p in peft.parameters() if p.requires_grad], lr=1e-6)

    def stepping(batches: tuple[torch.Tensor, ...]) -> Callable[[], None]:
        def step() -> None:
            for batch in batches:
                (peft(input_ids=batch, labels=batch, use_cache=False).loss / len(batches)).backward()
            adam.step()
            adam.zero_grad()

        return step

    causal.gradient_checkpointing_enable({"use_reentrant": False})
    seconds, peak = timed(stepping((ids,)), a.steps)
    name = "transformers + peft + Liger"
    say(
        part="plain", side=name, tokens_s=tokens / seconds, mfu=mfu(causal, tokens, seconds), peak_gib=peak,
        recompute=(1.0, 0.0),
    )  # fmt: skip
    for share in (0.0, 0.25, 0.5):  # whole layers are all that transformers can leave out
        for at, layer in enumerate(causal.get_decoder().layers):
            layer.gradient_checkpointing = at < share * len(causal.get_decoder().layers)
        try:
            seconds, peak = timed(stepping(ids.split(1)), a.steps)
        except torch.cuda.OutOfMemoryError:
            gc.collect()
            torch.cuda.empty_cache()
            continue
        say(
            part="plain", side=f"{name}, one sequence at a time, our choice of layers", tokens_s=tokens / seconds,
            mfu=mfu(causal, tokens, seconds), peak_gib=peak, recompute=(share, 0.0),
        )  # fmt: skip
        break


def with_liger(causal: Any) -> None:
    """The same module as users of Liger run it: sdpa, its kernels, no hook of ours. Not undone."""
    causal.set_attn_implementation("sdpa")
    for module in causal.modules():
        module.__dict__.pop("forward", None) if type(module).__name__ in ("Gemma3RMSNorm", "Gemma3MLP") else None
    if torch.cuda.is_available():
        from liger_kernel.transformers import apply_liger_kernel_to_gemma3_text

        apply_liger_kernel_to_gemma3_text(fused_linear_cross_entropy=True, cross_entropy=False, model=causal)


def trl(a: argparse.Namespace, peft: Any, top: int) -> None:
    from datasets import Dataset, fingerprint
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    # names of cache files only; datasets 5.2 cannot pickle what newer pyarrow versions give it
    fingerprint.Hasher.hash = classmethod(lambda _cls, _value: uuid.uuid4().hex)
    causal, cuda = peft.get_base_model(), torch.cuda.is_available()
    rows = conversation(top, a.tokens - 96, target=a.target)
    total = sum(len(row.rows[0].ids) for row in rows)
    data = [{"input_ids": r.rows[0].ids, "completion_mask": [int(x) for x in r.rows[0].learn]} for r in rows] * (
        a.steps + 1
    )
    causal.set_attn_implementation("sdpa")
    arguments = SFTConfig(
        output_dir=tempfile.mkdtemp(), packing=True, max_length=2 * a.tokens, per_device_train_batch_size=1,
        gradient_accumulation_steps=1, gradient_checkpointing=True, bf16=cuda, use_cpu=not cuda, report_to="none",
        gradient_checkpointing_kwargs={"use_reentrant": False}, use_liger_kernel=cuda, completion_only_loss=True,
        num_train_epochs=1, save_strategy="no", logging_strategy="no", learning_rate=1e-6,
    )  # fmt: skip

    class Watch(TrainerCallback):
        ends: list[float] = []  # noqa: RUF012 - one trainer

        def on_step_end(self, *_: object, **__: object) -> None:
            wait()
            self.ends.append(time.monotonic())

    tokenizer = AutoTokenizer.from_pretrained("checkpoints/organism")  # only its pad and end tokens are used
    trainer = SFTTrainer(
        model=peft, args=arguments, train_dataset=Dataset.from_list(data), processing_class=tokenizer,
        callbacks=[Watch()],
    )  # fmt: skip
    lengths = [len(pack) for pack in trainer.train_dataset["input_ids"]]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    warm = 2
    seconds = Watch.ends[-1] - Watch.ends[warm - 1]
    # packs have unlike lengths and the sampler shuffles them: the mean pack stands for each
    tokens = sum(lengths) / len(lengths) * (len(Watch.ends) - warm)
    rate = tokens / seconds / total * len(rows)
    say(
        part="pairs", side="TRL packing + Liger", pairs_s=rate, tokens_s=tokens / seconds, packs=len(lengths),
        mfu=mfu(causal, tokens, seconds), peak_gib=gib(), recompute=(1.0, 0.0),
    )  # fmt: skip


def full(a: argparse.Namespace) -> None:
    """As the worker trains: DeepSpeed with float32 masters and AdamW state."""
    from placid.train import TrainSettings, worker

    worker.join()
    made = base(a.full_layers, a.tiny)
    learner = model.Learner(made, CrossEntropy(), share=False).train()
    packs = documents(a.tokens, made.config.vocab_size)
    settings = TrainSettings(model=Path(), method="full", dtype="bfloat16", accumulate=2, lr=1e-6, zero=a.full_zero)
    engine = worker.around(learner, settings)

    def step() -> None:
        for pack in packs:
            engine.backward(engine(pack) / 1000)
            engine.step()

    shares, seconds, peak = least_recompute(made, step, a.steps)
    tokens, count = 2 * a.tokens, sum(p.numel() for p in made.parameters())
    say(
        part="full", side="placid", layers=a.full_layers, parameters=count, tokens_s=tokens / seconds,
        mfu=mfu(made, tokens, seconds, trained=True), peak_gib=peak, recompute=shares,
    )  # fmt: skip


def ratios() -> Iterator[dict[str, Any]]:
    """What the run was for."""
    for part, unit, wanted in (("plain", "tokens_s", 1.3), ("pairs", "pairs_s", 5.0)):
        sides = [said for said in SAID if said.get("part") == part and "side" in said]
        ours = next((said[unit] for said in sides if said["side"] == "placid"), None)
        for other in sides:
            if ours and other["side"] != "placid":
                yield {"part": part, "against": other["side"], "ratio": round(ours / other[unit], 3), "wanted": wanted}


def attempt(part: Callable[..., None], *arguments: Any) -> None:
    """One part; what it raises is printed and the next one has its turn, since a GPU's minutes are dear."""
    try:
        part(*arguments)
    except Exception:  # noqa: BLE001 - see above; the traceback is shown and the part has no result
        traceback.print_exc()
        say(note=f"{part.__name__} failed")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="check,pairs,trl", help="of check, pairs, plain, trl, full")
    parser.add_argument("--layers", type=int, default=40, help="62 is the whole model; 40 leaves 80 GB some room")
    parser.add_argument("--full-layers", type=int, default=4)
    parser.add_argument("--full-zero", type=int, default=1, help="DeepSpeed ZeRO stage of `full`")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--target", type=int, default=150)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--tiny", action="store_true", help="a toy shape on the CPU: does the script run?")
    parser.add_argument("--out", type=Path, help="where the JSON object goes")
    a = parser.parse_args()
    attention.register()
    began = time.monotonic()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    say(device=device, torch=torch.__version__, layers=a.layers, tokens=a.tokens, tiny=a.tiny)
    wanted = a.parts.split(",")
    if {"plain", "trl"} <= set(wanted):
        parser.error("plain and trl put Liger's kernels on one module: run them in two calls")
    if "check" in wanted:
        attempt(check, a)
    if set(wanted) & {"plain", "pairs", "trl"}:
        peft = adapted(base(a.layers, a.tiny))
        top = peft.get_base_model().config.vocab_size
        say(note="weights are made", seconds=round(time.monotonic() - began, 1))
        for name, part in (("pairs", pairs), ("plain", plain), ("trl", trl)):
            if name in wanted:
                attempt(part, a, peft, top)
                say(note=f"{name} done", seconds=round(time.monotonic() - began, 1))
        del peft
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if "full" in wanted:
        attempt(full, a)
    results = {"results": SAID, "ratios": list(ratios()), "seconds": round(time.monotonic() - began, 1)}
    print(
        "\n| part | side | pairs/s or tokens/s | MFU | peak GiB | recompute (layers, MLPs) |\n|---|---|---|---|---|---|"
    )
    for said in SAID:
        if "side" in said:
            rate, share = said.get("pairs_s", said.get("tokens_s")), said["recompute"]
            print(
                f"| {said['part']} | {said['side']} | {rate:.4g} | {said['mfu']:.1%} | {said['peak_gib']} | {share} |"
            )
    print(json.dumps(results))
    if a.out:
        a.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
