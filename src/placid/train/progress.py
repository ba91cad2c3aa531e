"""What a training run says while it runs: metrics.jsonl, status.json, and optionally a tracker's server.

<out>/metrics.jsonl   one line a step: step, loss, grad_norm, lr, tokens, tokens_per_second, mfu, memory_gib;
                      lines of step 0 and the last one: step, val_loss
<out>/status.json     {state, step, steps, ...}; running, done, paused, refused or diverged (with a sentence)
"""

import json
import time
from pathlib import Path
from typing import Any, Protocol

import torch

from placid import store
from placid.records import BadInputError
from placid.train.settings import TrainSettings

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}
"""Dense bfloat16 FLOP/s by a word of the device's name (NVIDIA's data sheets, SXM); MFU is against these."""
EVERY_S = 2.0
"""status.json is rewritten at most this often."""


class Tracker(Protocol):
    """The part of wandb's and trackio's modules that is used."""

    def init(self, *, project: str, name: str, config: dict[str, Any]) -> Any: ...  # noqa: ANN401, D102
    def log(self, metrics: dict[str, Any], step: int | None = None) -> Any: ...  # noqa: ANN401, D102
    def finish(self) -> Any: ...  # noqa: ANN401, D102


def tracker(settings: TrainSettings) -> Tracker | None:
    """The module that settings.track names.

    Raises:
        BadInputError: it is not installed.
    """
    if settings.track == "none":
        return None
    import importlib

    try:
        return importlib.import_module(settings.track)  # type: ignore[return-value]
    except ImportError:
        raise BadInputError(
            f"track = {settings.track!r}, but the package {settings.track} is not installed; pip install it or "
            'set track = "none"'
        ) from None


def flops_per_token(parameters: int, trained: int) -> float:
    """Useful FLOPs: forward 2N, gradient of activations 2N, gradient of the trained weights 2 a weight."""
    return 4.0 * parameters + 2.0 * trained


class Progress:
    """Writer of one run's metrics; made on rank 0 only."""

    def __init__(self, out: Path, settings: TrainSettings, steps: int, done: int, flops: float, ranks: int) -> None:
        """done: steps that an earlier attempt finished; its later metrics lines are dropped. flops: per token."""
        self.out, self.steps, self.flops, self.ranks = out, steps, flops, ranks
        self.lines = _until(out / "metrics.jsonl", done)
        store.write_atomic(out / "metrics.jsonl", "".join(line + "\n" for line in self.lines).encode())
        self.file = (out / "metrics.jsonl").open("a", encoding="utf-8")
        self.began = self.spoke = time.monotonic()
        self.computed = 0
        self.tracker = tracker(settings)
        if self.tracker:
            self.tracker.init(project="placid", name=out.name, config=settings.model_dump(mode="json"))

    def step(self, number: int, loss: float, norm: float, lr: float, tokens: int, computed: int) -> dict[str, Any]:
        """One finished step. tokens: of all its rows; computed: those left once shared prefixes are counted once."""
        now = time.monotonic()
        seconds, self.began = now - self.began, now
        facts: dict[str, Any] = {
            "step": number,
            "loss": round(loss, 6),
            "grad_norm": round(norm, 6),
            "lr": lr,
            "tokens": tokens,
            "tokens_computed": computed,
            "tokens_per_second": round(tokens / seconds, 1),
            "mfu": self._mfu(computed, seconds),
            "memory_gib": _memory(),
        }
        self._tell(facts)
        if now - self.spoke > EVERY_S or number == 1:
            self.spoke = now
            self.state("running", **facts)
        return facts

    def validated(self, number: int, loss: float) -> None:
        """The loss of the validation rows after step `number`; its time is no step's."""
        self._tell({"step": number, "val_loss": round(loss, 6)})
        self.began = time.monotonic()

    def _tell(self, facts: dict[str, Any]) -> None:
        line = json.dumps(facts)
        self.lines.append(line)
        self.file.write(line + "\n")
        self.file.flush()
        if self.tracker:
            self.tracker.log({key: value for key, value in facts.items() if value is not None}, step=facts["step"])

    def state(self, state: str, **facts: object) -> None:
        """Write status.json."""
        store.write_json(self.out / "status.json", {"state": state, "steps": self.steps, **facts})

    def close(self) -> None:
        """Flush the tracker."""
        self.file.close()
        if self.tracker:
            self.tracker.finish()

    def _mfu(self, computed: int, seconds: float) -> float | None:
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
        peak = next((flops for word, flops in PEAK_FLOPS.items() if word in name), None)
        return round(self.flops * computed / seconds / (peak * self.ranks), 4) if peak else None


def _memory() -> float:
    """GiB: the GPU's peak, or what this process holds."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**30, 2)
    import psutil

    return round(psutil.Process().memory_info().rss / 2**30, 2)


def _until(file: Path, done: int) -> list[str]:
    """Lines of an earlier attempt up to step `done`; a torn last line is dropped."""
    if not done or not file.is_file():
        return []
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            number = json.loads(line)["step"]
        except ValueError:  # the writer was killed in this line
            break
        if number <= done:
            kept.append(line)
    return kept
