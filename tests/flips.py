"""Single flipped bits in a finished run: each is found before its content is used, or changes nothing that is read.

A flip is read by the very reader that its file's users call. Outcomes: found (one BadInputError), harmless (equal
content), silent (other content, nobody says so), traceback (any other exception).
"""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import injection

Reader = Callable[[Path, Path], Any]
"""(run, file) → what users of the file get."""


def make(folder: Path) -> Path:
    """A finished run: every stage with the simulated engine, an adapter with its probe, a checkpoint of training. Forks,
    so no thread may have been started."""
    bench = injection.Bench(folder)
    bench.prepare(("eval",))
    run = folder / "whole" / "runs" / "run"
    code, said = injection.forked(lambda: _trained(run), folder / "said")
    if code:
        raise RuntimeError(said)
    return run


def _trained(run: Path) -> None:
    """What training leaves, in its layout: no training is needed to see a flipped bit in it."""
    import torch
    from safetensors.torch import save_file

    from placid.report.against import write as against
    from placid.store import RunDir, hashes_of, write_json

    against("paper", RunDir(run))
    torch.manual_seed(0)
    adapter, step = run.parent / "adapter" / "step_2", run.parent / "adapter" / "resume" / "step_1"
    for folder in (adapter, step):
        folder.mkdir(parents=True)
    save_file({"lora_A": torch.randn(4, 8)}, adapter / "adapter_model.safetensors")
    write_json(adapter / "adapter_config.json", {"r": 4, "peft_type": "LORA"}, checksum=False)
    rows = [{"ids": [1, 2, 3], "base": [-0.5, -0.25], "adapter": [-0.4, -0.3]}]
    write_json(adapter / "probe.json", {"schema": 1, "rows": rows}, checksum=False)
    (adapter / "loss.csv").write_text("step,loss\n1,0.5\n2,0.4\n")
    write_json(adapter / "manifest.json", {"steps": 2, "config": {"loss": "sft"}, "sha256": hashes_of(adapter)})
    state = {name: torch.randn(4, 8) for name in ("w", "w.exp_avg", "w.exp_avg_sq")}
    save_file(state, step / "state-0.safetensors")
    files = {"state-0.safetensors": sorted(state)}
    write_json(step / "manifest.json", {"step": 1, "files": files, "sha256": hashes_of(step)})
    write_json(run / "adapters.json", {"bct": str(adapter)})


def _turns(run: Path, _file: Path) -> Any:
    from placid.store import RunDir

    index = RunDir(run).index()
    return [(key, index.turns(key), index.ends.get(key)) for key in index]


def _verdicts(run: Path, file: Path) -> Any:
    from placid.store import RunDir

    return RunDir(run).verdicts(file.parent.name)


def _pairs(run: Path, file: Path) -> Any:
    from placid.store import RunDir

    return RunDir(run).pairs(file.stem)


def _answers(run: Path, _file: Path) -> Any:
    from placid.evals.asking import kept
    from placid.store import RunDir

    return kept(RunDir(run))


def _results(_run: Path, file: Path) -> Any:
    from placid.records import EvalResult
    from placid.store import read_lines

    return list(read_lines(file, EvalResult))


def _prompts(run: Path, _file: Path) -> Any:
    from placid.report.export import prompts_of
    from placid.store import RunDir

    return prompts_of(RunDir(run))


def _json(_run: Path, file: Path) -> Any:
    from placid.store import read_json

    return read_json(file)


def _lease(_run: Path, file: Path) -> Any:
    """None: a damaged one; its beats tell then."""
    from placid.records import BadInputError
    from placid.store import lease

    holder = lease._holder(file.read_bytes())
    if holder is None:
        raise BadInputError("damaged")
    return holder


def _tables(run: Path, _file: Path) -> Any:
    from placid.store import check_files, read_json

    made = read_json(run / "tables" / "source.json")
    check_files(run / "tables", made["files"])
    return made


def _sheet(_run: Path, file: Path) -> Any:
    from placid.store.sheets import decode

    return decode(file)


def _curves(run: Path, _file: Path) -> Any:
    from placid.report import loss_curves

    return loss_curves(run)


def _adapter(_run: Path, file: Path) -> Any:
    from placid.engine.gate import read_probe
    from placid.store import check_adapter

    check_adapter(file.parent)
    return read_probe(file.parent), file.with_name("adapter_model.safetensors").read_bytes()


def _checkpoint(_run: Path, file: Path) -> Any:
    from placid.train import checkpoint

    newest = checkpoint.latest(file.parent.parent)
    if newest is None:
        return None
    return {name: tensor.tolist() for name, tensor in checkpoint.read(*newest).items()}


KINDS: dict[str, tuple[str, Reader]] = {
    "conversations": ("run/conversations/*.jsonl", _turns),
    "verdicts": ("run/verdicts/*/*.jsonl", _verdicts),
    "judge card": ("run/verdicts/*/judge.json", _json),
    "pairs": ("run/pairs/*.jsonl", _pairs),
    "pairs, dropped": ("run/pairs/*.json", _json),
    "eval answers": ("run/evals/answers/*.jsonl", _answers),
    "eval results": ("run/evals/results.jsonl", _results),
    "eval manifest": ("run/evals/manifest.json", _json),
    "prompts": ("run/prompts.jsonl", _prompts),
    "config, manifest, plan": ("run/*.json", _json),
    "status": ("run/attempts/*/*.json", _json),
    "leases": ("run/leases/*/*.json", _lease),
    "summary": ("run/report/summary.json", _json),
    "turns.csv": ("run/report/tables/turns.csv*", lambda run, _: _sheet(run, run / "report/tables/turns.csv")),
    "conversations.csv": (
        "run/report/tables/conversations.csv*", lambda run, _: _sheet(run, run / "report/tables/conversations.csv"),
    ),
    "evals.csv": ("run/report/tables/evals.csv*", lambda run, _: _sheet(run, run / "report/tables/evals.csv")),
    "evals_groups.csv": (
        "run/report/tables/evals_groups.csv*", lambda run, _: _sheet(run, run / "report/tables/evals_groups.csv"),
    ),
    "parquet": ("run/tables/*.parquet", _tables),
    "zarr": ("run/tables/tokens.zarr/**/*", _tables),
    "source.json": ("run/tables/source.json", _tables),
    "adapter": ("adapter/step_2/*", _adapter),
    "loss curve": ("adapter/step_2/loss.csv", _curves),
    "checkpoint": ("adapter/resume/step_1/*", _checkpoint),
}  # fmt: skip
"""Kind → its files below runs/, and who reads them."""


def copied(run: Path, folder: Path) -> Path:
    """A copy of all, the paths in adapters.json too, that flips may be tried on."""
    from placid.store import write_json

    shutil.copytree(run.parent, folder)
    adapter = folder / "adapter" / "step_2"
    write_json(folder / "run" / "adapters.json", {"bct": str(adapter)})
    return folder / "run"


def flips(run: Path, count: int, seed: int) -> Iterator[tuple[str, Path, int]]:
    """(kind, file below runs/, bit): the kinds in turn, a random file of the kind, a random bit of it."""
    chance = random.Random(seed)
    files = {
        kind: sorted(path for path in run.parent.glob(pattern) if path.is_file() and path.stat().st_size)
        for kind, (pattern, _) in KINDS.items()
    }
    missing = [kind for kind, of in files.items() if not of]
    if missing:
        raise RuntimeError(f"the finished run holds no file of {missing}")
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        file = chance.choice(files[kind])
        yield kind, file.relative_to(run.parent), chance.randrange(8 * file.stat().st_size)


def flip(run: Path, kind: str, name: Path, bit: int) -> tuple[str, str]:
    """(outcome, what was said) of one flipped bit; it is put back afterwards."""
    from placid.records import BadInputError

    file = run.parent / name
    reader = KINDS[kind][1]
    expected = reader(run, file)
    before = file.read_bytes()
    bit %= 8 * len(before)  # the copy's adapters.json names another folder
    after = bytearray(before)
    after[bit // 8] ^= 1 << bit % 8
    file.write_bytes(after)
    os.utime(file, ns=(0, bit))  # hashes are remembered by the time of change, whose ticks are longer than a case
    try:
        content = reader(run, file)
    except BadInputError as error:
        return "found", str(error)
    except Exception as error:  # noqa: BLE001 - whatever a user would see
        return "traceback", repr(error)
    finally:
        file.write_bytes(before)
    if content == expected:
        return "harmless", ""
    return "silent", f"{before[max(0, bit // 8 - 20) : bit // 8 + 20]!r}"


def summary(results: list[tuple[str, str]]) -> str:
    """A table of kinds and outcomes."""
    outcomes = ("found", "harmless", "silent", "traceback")
    lines = [f"| kind | flips | {' | '.join(outcomes)} |", "|---|---|---|---|---|---|"]
    for kind in [*KINDS, "all"]:
        of = [outcome for one, outcome in results if kind in (one, "all")]
        lines.append(f"| {kind} | {len(of)} | {' | '.join(str(of.count(each)) for each in outcomes)} |")
    return "\n".join(lines)
