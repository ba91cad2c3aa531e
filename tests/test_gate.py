"""The gate on real weights and a real engine: what a served adapter can get wrong, and that it is noticed."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from placid.engine.gate import GateError, Probe, ProbeRow, read_probe, verify
from placid.records import BadInputError
from placid.train.merge import merge

MODEL = Path("checkpoints/organism")


def rewritten(adapter: Path, to: Path, change) -> Path:
    """A copy whose tensors went through `change` (name, tensor) → (name, tensor)."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(adapter, to, dirs_exist_ok=True)
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file(dict(change(*item) for item in tensors.items()), to / "adapter_model.safetensors")
    return to


def test_merging_needs_the_base_and_a_free_folder(tmp_path):
    with pytest.raises(BadInputError, match="no adapter in"):
        merge(tmp_path, tmp_path / "out")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "gone/gemma"}))
    with pytest.raises(BadInputError, match=r"is gone/gemma, where there is no model; .*adapter_config\.json"):
        merge(tmp_path, tmp_path / "out")


def test_what_bfloat16_cannot_hold_is_no_fault_and_another_base_is():
    row = ProbeRow(ids=(1, 2, 3), base=(-120.0, -80.0), adapter=(-80.0, -40.0))
    probe = Probe(rows=(row,))
    near = [[-119.8, -80.2]]
    assert verify(probe, near, [[-79.8, -40.2]], [[-40.2]], "x")["base_error"] == pytest.approx(0.2)
    with pytest.raises(GateError, match=r"the base model in the engine is not the one .*tolerance 0\.4\)"):
        verify(probe, [[-119.0, -81.0]], [[-79.8, -40.2]], [[-40.2]], "x")
    small = Probe(rows=(ProbeRow(ids=(1, 2), base=(-2.0,), adapter=(-1.0,)),))
    with pytest.raises(GateError, match=r"tolerance 0\.1\)"):
        verify(small, [[-2.2]], [[-1.0]], [[-1.0]], "x")


@pytest.mark.slow
def test_the_gate_on_vllm(tmp_path):
    from placid import store
    from placid.engine.settings import EngineSettings
    from placid.engine.vllm import VllmEngine
    from placid.train import launch, probe
    from test_train import rows, settings

    store.write_lines(tmp_path / "rows.jsonl", rows())
    one = launch(settings(epochs=2), tmp_path / "rows.jsonl", tmp_path / "one", tmp_path / "log.txt")
    texts = [list(row.ids) for row in read_probe(one).rows]
    two = rewritten(one, tmp_path / "two", lambda n, t: (n, -t if "lora_B" in n else t))
    store.write_json(two / "probe.json", probe.measure(MODEL, two, texts, "lora"))
    prefix = rewritten(one, tmp_path / "prefix", lambda n, t: (n.replace(".model.model.", ".model.language_model."), t))
    untrained = rewritten(one, tmp_path / "untrained", lambda n, t: (n, t * ("lora_B" not in n)))
    with pytest.raises(RuntimeError, match="a no-op adapter"):
        probe.measure(MODEL, untrained, texts, "lora")
    faults: dict[str, str] = {}

    async def serve() -> None:
        from vllm.lora.request import LoRARequest

        engine = VllmEngine(EngineSettings(kind="vllm"), MODEL, (str(one),))
        await engine.start()
        faults["good"] = json.dumps(engine.gates)
        wanted = read_probe(one)

        async def fault(name: str, request: LoRARequest | None, want=wanted) -> None:
            try:
                faults[name] = json.dumps(await engine._gate(want, request, name))
            except (GateError, ValueError, RuntimeError) as error:  # vLLM itself refuses keys that fit nowhere
                faults[name] = str(error)

        try:
            good = engine._lora[str(one)]
            await fault("base under its name", None)
            # new weights in the same folder, under the same name and number: the engine keeps what it has
            for file in two.iterdir():
                shutil.copy(file, one / file.name)
            await fault("kept weights", good, read_probe(one))
            for number, (name, folder) in enumerate(
                {"untrained": untrained, "prefix": prefix, "other": two}.items(), 7
            ):
                await fault(name, LoRARequest(lora_name=name, lora_int_id=number, lora_path=str(folder.absolute())))
            # the others took its place, so it is loaded anew; but what the engine cached under that name stays
            await fault("stale prefix", good, read_probe(one))
            fresh = LoRARequest("fresh", 11, good.lora_path)
            await fault("under a new name", fresh, read_probe(one))
        finally:
            await engine.close()

    asyncio.run(serve())
    print(json.dumps(faults, indent=1))
    assert "no-op" in faults["base under its name"]
    assert "no-op" in faults["untrained"]
    assert "refused" in faults["prefix"]
    assert "not the trained one" in faults["other"]
    assert "not the trained one" in faults["kept weights"]
    assert "stale prefix cache" in faults["stale prefix"]
    assert "refused" not in faults["good"] + faults["under a new name"]
