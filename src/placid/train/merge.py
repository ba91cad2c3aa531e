"""Adapter + base → a whole model, for ranks at which serving an adapter is slow: python -m placid.train.merge STEP OUT.

Added in float32 and rounded to bfloat16 once. OUT gets its own probe.json, measured on the merged files.
"""

import json
import shutil
import sys
from pathlib import Path

from placid import store
from placid.checkpoint_files import copy_beside
from placid.records import BadInputError


def merge(step: Path, out: Path) -> None:
    """Write the merged model of an adapter folder to `out`, which must not exist yet.

    Raises:
        BadInputError: no adapter, its base is not where it says, or `out` exists.
    """
    file = step / "adapter_config.json"
    if not file.is_file():
        raise BadInputError(f"no adapter in {step}; expected adapter_config.json and adapter_model.safetensors")
    base = Path(json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"])
    if not (base / "config.json").is_file():
        raise BadInputError(f"the base of {step} is {base}, where there is no model; put it there or mend {file}")
    if out.exists():
        raise BadInputError(f"{out} exists already; choose another folder")
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from placid.train import probe

    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model = AutoModelForCausalLM.from_pretrained(
        str(base), dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    merged = PeftModel.from_pretrained(model, str(step)).merge_and_unload()  # type: ignore[operator]
    merged.to(torch.bfloat16).save_pretrained(temporary)
    copy_beside(base, temporary)
    rows = [row["ids"] for row in store.read_json(step / "probe.json")["rows"]]
    store.write_json(temporary / "probe.json", probe.measure(base, temporary, rows, "full"), checksum=False)
    temporary.rename(out)


if __name__ == "__main__":
    try:
        merge(Path(sys.argv[1]), Path(sys.argv[2]))
    except BadInputError as error:
        sys.stderr.write(f"placid: {error}\n")
        raise SystemExit(2) from None
