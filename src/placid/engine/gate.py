"""The adapter gate: an engine must compute with an adapter what training computed, or refuse to serve it.

Training writes probe.json beside the adapter: fixed token ids with the per-token log-probabilities of base and of
base + adapter as transformers + peft computed them. A key-name mismatch turns an adapter into a silent no-op that
answers like the base model; the numbers here make that impossible to miss.
"""

from pathlib import Path

import msgspec

from placid.records import SCHEMA, BadInputError, Record

TOLERANCE = 0.10
"""Mean absolute difference in nats per token between an engine and the probe. The organism on vLLM's CPU: 0.023 for
base and adapter, 0.44 and more for every fault of tests/test_gate.py; of larger models it is not known yet."""
PRECISION = 0.004
"""Where log-probabilities are so large that this share of their mean is more than TOLERANCE, it is the tolerance: one
part in 2^8, all that bfloat16 holds. That is above 25 nats a token, where no trained model is. One 62-layer model of
random weights (training loss 144 to 88 nats a token; the probe's own mean was not kept) was 0.165 off."""
SMALLEST_EFFECT = 1e-3
"""Mean |adapter - base| in nats below which an adapter cannot be told from bf16 noise, so cannot be verified."""
CACHED = 4
"""Last tokens of each row that are asked for once more in the way of replies, through the prefix cache: the other
numbers are computed afresh by every engine, so a cache that holds another adapter's keys and values shows only here."""
SLOPE = (0.5, 1.5)
"""The engine's change, projected on the probe's change, is 1 for the right adapter and 0 for none or for another."""


class GateError(BadInputError):
    """The engine does not compute what training computed."""


class ProbeRow(Record, frozen=True, kw_only=True):
    """One text of L tokens; the lists hold L-1 log-probabilities in nats, of ids[i] given ids[:i] for i = 1..L-1."""

    ids: tuple[int, ...]
    base: tuple[float, ...]
    adapter: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.ids) - 1 == len(self.base) == len(self.adapter) >= 1:
            raise ValueError(
                f"a probe row of {len(self.ids)} ids holds {len(self.base)} base and {len(self.adapter)} adapter "
                "log-probabilities; expected one less than ids"
            )


class Probe(Record, frozen=True, kw_only=True):
    """The file probe.json."""

    schema: int = SCHEMA
    rows: tuple[ProbeRow, ...]


def is_whole(folder: Path) -> bool:
    """Whether `folder` holds a whole model, as method = 'full' exports it, and no adapter."""
    return (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file()


def read_probe(adapter: Path) -> Probe:
    """The probe of an adapter folder, or of a whole trained model.

    Raises:
        BadInputError: neither is there, no probe, or a malformed one. An adapter without a probe is not served.
    """
    if not (adapter / "adapter_config.json").is_file() and not is_whole(adapter):
        raise BadInputError(f"no adapter in {adapter}; expected adapter_config.json and adapter_model.safetensors")
    file = adapter / "probe.json"
    if not file.is_file():
        raise BadInputError(
            f"{adapter} has no probe.json; an adapter that cannot be checked is not served: export it again"
        )
    try:
        probe = msgspec.json.decode(file.read_bytes(), type=Probe)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BadInputError(f"{file} is no probe: {error}") from None
    if not probe.rows:
        raise BadInputError(f"{file} holds no rows; the gate needs at least one text")
    return probe


def verify(
    probe: Probe, base: list[list[float]], adapter: list[list[float]], cached: list[list[float]], name: str
) -> dict[str, float]:
    """Check what an engine computed (`base`, `adapter`: per row L-1 log-probabilities in nats) against the probe.

    cached: per row the adapter's log-probabilities of the last CACHED tokens, read through the engine's prefix cache
    before anything else was asked of it with this adapter.

    Returns the measured numbers. Raises GateError with them if base or adapter disagree or the adapter does nothing.
    """
    want_base = [x for row in probe.rows for x in row.base]
    want_adapter = [x for row in probe.rows for x in row.adapter]
    got_base, got_adapter = [x for row in base for x in row], [x for row in adapter for x in row]
    if not len(want_base) == len(got_base) == len(got_adapter):
        raise GateError(
            f"adapter {name}: the engine gave {len(got_base)} log-probabilities, the probe has {len(want_base)}"
        )
    want = [a - b for a, b in zip(want_adapter, want_base, strict=True)]
    got = [a - b for a, b in zip(got_adapter, got_base, strict=True)]
    numbers = {
        "base_error": _distance(got_base, want_base),
        "adapter_error": _distance(got_adapter, want_adapter),
        "probe_effect": _distance(want_adapter, want_base),
        "engine_effect": _distance(got_adapter, got_base),
        "cache_error": _distance(
            [x for row in cached for x in row],
            [x for row, tail in zip(adapter, cached, strict=True) for x in row[-len(tail) :]],
        ),
        "slope": sum(g * w for g, w in zip(got, want, strict=True)) / max(sum(w * w for w in want), 1e-30),
    }
    tolerance = max(TOLERANCE, PRECISION * sum(map(abs, want_base)) / len(want_base))
    fault = _fault(numbers, tolerance)
    if fault:
        shown = ", ".join(f"{key} {value:.4g}" for key, value in numbers.items())
        raise GateError(f"adapter {name} refused: {fault} ({shown}; nats per token, tolerance {tolerance:.2g})")
    return numbers


def _fault(numbers: dict[str, float], tolerance: float) -> str:
    """What is wrong, or nothing. Written so that a NaN anywhere is a fault."""
    effect = numbers["probe_effect"]
    if not numbers["base_error"] <= tolerance:
        return "the base model in the engine is not the one the adapter was trained on"
    if not effect >= SMALLEST_EFFECT:
        return "training itself saw no effect of this adapter"
    if not numbers["engine_effect"] >= SLOPE[0] * effect:
        return "it is a no-op in the engine (wrong key names, or it was not loaded)"
    if not (numbers["adapter_error"] <= tolerance and SLOPE[0] <= numbers["slope"] <= SLOPE[1]):
        return "the engine's adapter is not the trained one"
    if not numbers["cache_error"] <= tolerance:
        return "its replies would stand on a stale prefix cache, computed by other weights; serve it under a new name"
    return ""


def _distance(left: list[float], right: list[float]) -> float:
    """Mean absolute difference."""
    return sum(abs(a - b) for a, b in zip(left, right, strict=True)) / len(left)
