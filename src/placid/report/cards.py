"""Hugging Face dataset and adapter folders with their cards: every number with its interval and the judge's identity."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from placid.inputs.names import file_name, one_line
from placid.records import BadInputError
from placid.report import HEAD, change, headline, percent, reach_notes
from placid.report.broken import warnings
from placid.report.templates import render
from placid.store import RunDir, check_adapter, read_json, write_atomic, write_json
from placid.store.tables import compact

TABLES = ("turns", "verdicts")


def write_dataset(run_dir: RunDir, summary: dict[str, Any], folder: Path) -> None:
    """README.md and data/{turns,verdicts}.parquet, as `placid compact` makes them (docs/tables.md)."""
    compact(run_dir)
    config = read_json(run_dir.path / "config.json")["config"]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        shutil.copyfile(run_dir.path / "tables" / f"{name}.parquet", folder / "data" / f"{name}.parquet")
    front = front_matter({
        "pretty_name": f"placid run {run_dir.path.name}",
        "tags": ["placid", "frustration", "multi-turn", "rejection"],
        "size_categories": [_size(sum(a["n_scored"] + a["n_unscored"] for a in summary["arms"].values()))],
        "configs": [{"config_name": name, "data_files": f"data/{name}.parquet"} for name in TABLES],
    })  # fmt: skip
    model = _public(str(config.get("model", "")))
    text = render(
        "dataset.jinja",
        front=front, run=run_dir.path.name, model=model, summary=summary, results=results(summary), shown=shown,
    )  # fmt: skip
    write_atomic(folder / "README.md", text.encode())


def write_adapters(run_dir: RunDir, summary: dict[str, Any], folder: Path) -> None:
    """One folder an adapter of adapters.json: the files of PEFT with the base model's public name, and README.md."""
    file = run_dir.path / "adapters.json"
    if not file.is_file():
        return
    config = read_json(run_dir.path / "config.json")["config"]
    for arm, place in read_json(file).items():
        source = Path(place)
        if (source / "config.json").is_file():  # trained as a whole: gigabytes, which lie there ready to be published
            continue
        if not (source / "adapter_config.json").is_file():
            raise BadInputError(
                f"adapters.json names {place} for {arm}, and there is no adapter; run this in the folder that the study "
                "was started in"
            )
        check_adapter(source)
        own = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
        own["base_model_name_or_path"] = _public(str(own.get("base_model_name_or_path") or config.get("model", "")))
        out = folder / file_name(arm)
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / "adapter_model.safetensors", out / "adapter_model.safetensors")
        write_json(out / "adapter_config.json", own, checksum=False)
        write_atomic(out / "README.md", adapter_card(arm, own, config, summary).encode())


def adapter_card(arm: str, adapter: dict[str, Any], config: dict[str, Any], summary: dict[str, Any]) -> str:
    """README.md of one adapter."""
    front = front_matter({
        "base_model": adapter["base_model_name_or_path"], "base_model_relation": "adapter", "library_name": "peft",
        "tags": ["placid", "lora", "consistency-training"],
    })  # fmt: skip
    return render(
        "adapter.jinja",
        front=front, arm=arm, adapter=adapter, recipe=(config.get("train") or {}).get("recipe") or {},
        no_calm=summary["arms"].get(arm, {}).get("no_calm"), reduction=summary["auc_reduction"].get(arm),
        difference=summary["deletion_difference"].get(arm), results=results(summary),
        shown=shown, change=change, percent=percent,
    )  # fmt: skip


def results(summary: dict[str, Any]) -> str:
    """The headline table in Markdown with the judge's identity."""
    head, *rows = (" | ".join((shown(row[0]), *row[1:])) for row in headline(summary))
    lines = [f"| {head} |", "|---" * len(HEAD) + "|", *(f"| {row} |" for row in rows)]
    judge = summary["judge"]
    lines += ["", *(f"**Note: {shown(warning)}.**" for warning in [*warnings(summary), *reach_notes(summary)])]
    return "\n".join([
        *lines, "", f"95 % intervals, clustered by prompt. Judge: {shown(judge['id'])} ({shown(judge['note'])}). Scores of another judge "
        "are not comparable with these.",
    ])  # fmt: skip


def shown(text: str) -> str:
    """A foreign text in Markdown: one line that is shown as it is, no element, link, code, table cell or hidden letter."""
    line = one_line(text)
    line = re.sub(r"([\\`*\[\]|~$!#])", r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    return re.sub(r"(?i):(?=//)|(?<=\bwww)\.|@", lambda mark: f"&#{ord(mark[0])};", line)


def front_matter(values: dict[str, Any]) -> str:
    """YAML between its lines. JSON is YAML, so each value is written as JSON."""
    return "\n".join(
        ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()), "---"]
    )


def _public(model: str) -> str:
    """A hub id stays; of a folder on somebody's disk only its name is told."""
    parts = model.split("/")
    local = model.startswith((".", "/")) or len(parts) != 2 or Path(model).exists()
    return parts[-1] if local else model


def _size(n: int) -> str:
    """The hub's words for how many rows."""
    for top, word in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if n < top:
            return word
    return "1M<n<10M"
