"""What training needs to go on: trained weights and Adam's state, by name, whole, for any number of processes.

    <out>/resume/step_<n>/{manifest.json, state-<k>.safetensors}   tensors: <weight>, <weight>.exp_avg, .exp_avg_sq

Nothing else is kept because nothing else is state: the order of rows and every random number of a step follow from
(seed, step). Written under a temporary name and renamed, so a checkpoint that can be seen is whole; read only if every
tensor is there, full and finite. Float32 throughout.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from placid import store
from placid.records import BadInputError
from placid.train.model import Learner, refuse_empty

MOMENTS = ("exp_avg", "exp_avg_sq")
PART = 2**31
"""Bytes of tensors that rank 0 holds before it writes them to a file of their own."""


def save(
    engine: Any,  # noqa: ANN401
    learner: Learner,
    folder: Path,
    facts: dict[str, Any],
    keep: int,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write `folder`/step_<facts["step"]>; afterwards the newest `keep` are left. Every rank must call it.

    check: asked at the last moment before the step can be seen; raises if it may not be.

    Raises:
        RuntimeError: a tensor is empty or not finite; the older checkpoints stay.
    """
    first = torch.distributed.get_rank() == 0
    final = folder / f"step_{facts['step']}"
    temporary = folder / f".{final.name}.tmp"
    if first:
        for torn in {*folder.glob(".step_*.tmp"), *folder.glob("step_*")} - {*_steps(folder)}:
            shutil.rmtree(torn)  # an attempt was killed while it saved, or while it removed an old one
        temporary.mkdir(parents=True)
    part: dict[str, Tensor] = {}
    files: dict[str, list[str]] = {}
    for name, tensor in _state(engine, learner):  # collective: every rank walks through all of it
        if first:
            part[name] = tensor
            if sum(t.numel() * 4 for t in part.values()) >= PART:
                _write(temporary, part, files)
    if first:
        _write(temporary, part, files)
        store.write_json(temporary / "manifest.json", {**facts, "files": files, "sha256": store.hashes_of(temporary)})
        _sync(temporary)
        check()
        discard(final)
        temporary.rename(final)
        _sync(folder)
        for old in _steps(folder)[:-keep]:
            discard(old)
    torch.distributed.barrier()


def discard(folder: Path) -> None:
    """Remove a step folder, if it is there; its manifest first, so that half of it is never taken for all of it."""
    (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def latest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint below `folder` and its manifest."""
    found = _steps(folder)
    return (found[-1], store.read_json(found[-1] / "manifest.json")) if found else None


def restore(engine: Any, learner: Learner, step_folder: Path) -> int:  # noqa: ANN401
    """Put a checkpoint into a fresh engine of any size and ZeRO stage; its step. Every rank must call it.

    Raises:
        BadInputError: a file or a tensor is missing, cut off or not finite.
    """
    manifest = store.read_json(step_folder / "manifest.json")
    state = read(step_folder, manifest)
    wanted = {name for name, _ in _trained(learner)}
    have = {name for name in state if name.rpartition(".")[2] not in MOMENTS}
    if wanted != have:
        odd = sorted(wanted ^ have)
        raise BadInputError(f"{step_folder} is of another adapter: {len(odd)} parameters differ, e.g. {odd[0]}")
    _fresh_moments(engine, manifest["step"])
    for name, parameter in _trained(learner):
        _put(engine, parameter, state[name], None)
        for moment in MOMENTS:
            _put(engine, parameter, state[f"{name}.{moment}"], moment)
    return manifest["step"]


def read(step_folder: Path, manifest: dict[str, Any]) -> dict[str, Tensor]:
    """All tensors of a checkpoint, checked against its manifest.

    Raises:
        BadInputError: a file or a tensor is missing, cut off or not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    store.check_files(step_folder, manifest.get("sha256", {}))
    state: dict[str, Tensor] = {}
    for file, names in manifest["files"].items():
        try:
            found = load_file(step_folder / file)
        except (OSError, SafetensorError) as error:
            raise BadInputError(f"{step_folder / file} cannot be read ({error}); remove {step_folder}") from None
        if sorted(found) != sorted(names):
            raise BadInputError(f"{step_folder / file} does not hold the tensors of its manifest; remove {step_folder}")
        state |= found
    try:
        refuse_empty(state.items())
    except RuntimeError as error:
        raise BadInputError(f"{step_folder}: {error}; remove it") from None
    return state


def _steps(folder: Path) -> list[Path]:
    found = [path.parent for path in folder.glob("step_*/manifest.json")]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def _trained(learner: Learner) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in learner.model.named_parameters() if p.requires_grad]


def _write(folder: Path, part: dict[str, Tensor], files: dict[str, list[str]]) -> None:
    """One file of the tensors so far; empties `part`."""
    from safetensors.torch import save_file

    if not part:
        return
    refuse_empty(part.items())
    name = f"state-{len(files)}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in part.items()}, folder / name)
    _sync(folder / name)
    files[name] = sorted(part)
    part.clear()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _state(engine: Any, learner: Learner) -> Iterator[tuple[str, Tensor]]:  # noqa: ANN401
    """(name, whole float32 tensor on the CPU), in the same order on every rank."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    for name, parameter in _trained(learner):
        if _plain(parameter):
            state = engine.optimizer.state[parameter]
            whole = [parameter, *(state[moment] for moment in MOMENTS)]
        else:
            whole = [cast("Tensor", safe_get_full_fp32_param(parameter))]
            whole += [cast("Tensor", safe_get_full_optimizer_state(parameter, moment)) for moment in MOMENTS]
        for suffix, tensor in zip(("", *MOMENTS), whole, strict=True):
            yield name + f".{suffix}" * bool(suffix), tensor.detach().float().cpu().clone()


def _plain(parameter: Any) -> bool:  # noqa: ANN401 - DeepSpeed's marks are set on a torch.nn.Parameter
    """True where DeepSpeed leaves weights and optimizer as torch made them: ZeRO 0 in float32."""
    return not hasattr(parameter, "ds_id") and not hasattr(parameter, "_hp_mapping")


def _fresh_moments(engine: Any, step: int) -> None:  # noqa: ANN401
    """Adam's state as it is after `step` steps, with zeros; torch makes it only in the first step."""
    wrapper = engine.optimizer
    adam = getattr(wrapper, "optimizer", wrapper)
    flat = getattr(wrapper, "fp32_partitioned_groups_flat", None)  # ZeRO 3 lists them outside of the param groups
    parameters = flat or [p for group in adam.param_groups for p in group["params"]]
    for parameter in parameters:
        adam.state[parameter] = {
            "step": torch.tensor(float(step)),
            **{moment: torch.zeros_like(parameter, requires_grad=False) for moment in MOMENTS},
        }
    if hasattr(wrapper, "_lazy_init_hp_params_optimizer_state"):
        wrapper._lazy_init_hp_params_optimizer_state()


def _put(engine: Any, parameter: Any, value: Tensor, moment: str | None) -> None:  # noqa: ANN401
    """Set a weight (moment None) or one of its moments from the whole tensor."""
    value = value.to(parameter.device)
    if hasattr(parameter, "ds_id"):
        _put_sharded(parameter, value, moment)
    elif hasattr(parameter, "_hp_mapping"):
        parameter.set_full_hp_param(value, moment)
    elif moment:
        engine.optimizer.state[parameter][moment].copy_(value)
    if moment is None and not hasattr(parameter, "ds_id"):
        parameter.data.copy_(value)


def _put_sharded(parameter: Any, value: Tensor, moment: str | None) -> None:  # noqa: ANN401
    """ZeRO 3: this rank's piece, the last one padded with zeros."""
    optimizer, shard = parameter._z3_optimizer, parameter.ds_tensor
    size, rank = shard.numel(), optimizer._get_param_partition_rank(parameter)
    padded = torch.nn.functional.pad(value.flatten(), (0, max(0, size * (rank + 1) - value.numel())))
    piece = padded.narrow(0, size * rank, size)
    optimizer.set_local_hp_param(piece, parameter, moment)
    if moment is None:
        shard.data.copy_(piece)
