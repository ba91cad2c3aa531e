"""A checkpoint of any size with random weights: to see a whole study run at a shape whose real weights are not at hand.

Weights are drawn with std 0.02, norms are neutral. Tokens of the shipped texts get louder embeddings,
so that what the model samples is a salad of English words that the lexical judge can read, and not of every language.

    python benchmarks/random_checkpoint.py --tokenizer models/gemma-3-270m --out /tmp/shape27b          # Gemma-3-27B
    python benchmarks/random_checkpoint.py --tokenizer models/gemma-3-270m --out /tmp/small --layers 2 --hidden 64
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from rollout_throughput import GEMMA_27B
from safetensors.torch import save_file
from transformers import AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

PROMPTS = Path(__file__).parent.parent / "configs/prompts"
LOUD, QUIET = 5.0, 0.3
"""Standard deviations of the logits of loud and of other tokens: 500 of the first outweigh 260,000 of the others."""


def shape(layers: int | None, hidden: int | None, vocabulary: int) -> Gemma3TextConfig:
    """Gemma-3-27B's text model, or a smaller one of its kind."""
    config = GEMMA_27B | {"vocab_size": vocabulary, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    if layers:
        config |= {"num_hidden_layers": layers, "layer_types": GEMMA_27B["layer_types"][-layers:]}
    if hidden:
        config |= {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_attention_heads": 4}
        config |= {"num_key_value_heads": 2, "head_dim": 64, "query_pre_attn_scalar": 64}
    return Gemma3TextConfig(**config, tie_word_embeddings=True, architectures=["Gemma3ForCausalLM"], dtype="bfloat16")


def loud(tokenizer: Path) -> list[int]:
    """Ids of the tokens in the shipped texts, and of the end of a turn."""
    made = AutoTokenizer.from_pretrained(str(tokenizer))
    ids: set[int] = set(made.encode("<end_of_turn>", add_special_tokens=False))
    for name in ("organism_instruct", "organism_heldout"):
        for line in (PROMPTS / f"{name}.jsonl").read_text().splitlines()[:300]:
            row = json.loads(line)
            texts = [row.get("text", ""), row.get("target", ""), *(m["content"] for m in row.get("messages", []))]
            ids.update(made.encode(" ".join(texts), add_special_tokens=False))
    return sorted(ids)


def write(out: Path, config: Gemma3TextConfig, words: list[int]) -> int:
    """One shard a layer and one for the rest, each drawn on the GPU where there is one; bytes in all."""
    with torch.device("meta"):
        names = Gemma3ForCausalLM(config).state_dict()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    index: dict[str, str] = {}
    groups: dict[str, list[str]] = {}
    for name in names:
        if name != "lm_head.weight":  # tied to the embedding
            groups.setdefault(name.split("layers.")[1].split(".")[0] if "layers." in name else "rest", []).append(name)
    total = 0
    for number, members in enumerate(groups.values(), 1):
        file = f"model-{number:05}-of-{len(groups):05}.safetensors"
        shard: dict[str, torch.Tensor] = {}
        for name in members:
            weight = torch.zeros(names[name].shape, dtype=torch.bfloat16, device=device)
            if weight.ndim == 2:
                weight.normal_(std=QUIET / config.hidden_size**0.5 if "embed_tokens" in name else 0.02)
            if "embed_tokens" in name:
                weight[words] *= LOUD / QUIET
            shard[name] = weight.cpu()
            index[name] = file
            total += weight.nbytes
        save_file(shard, out / file, metadata={"format": "pt"})
    (out / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    )
    return total


def main() -> None:
    """Write the folder and say its size."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--tokenizer", type=Path, required=True, help="folder with Gemma's tokenizer and chat template")
    parse.add_argument("--out", type=Path, required=True)
    parse.add_argument("--layers", type=int)
    parse.add_argument("--hidden", type=int)
    args = parse.parse_args()
    args.out.mkdir(parents=True)
    for file in args.tokenizer.iterdir():
        if file.name.startswith(("tokenizer", "chat_template", "generation_config")):
            shutil.copy(file, args.out)
    config = shape(args.layers, args.hidden, json.loads((args.tokenizer / "config.json").read_text())["vocab_size"])
    config.save_pretrained(str(args.out))
    print(json.dumps({"out": str(args.out), "gb": write(args.out, config, loud(args.tokenizer)) / 1e9}))


if __name__ == "__main__":
    main()
