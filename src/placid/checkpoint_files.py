"""Files of a checkpoint that nobody vouches for: refused in one sentence before a library parses them.

Only the standard library is used, nothing is executed, and no more is read than a bound allows. What a library would do
with a hostile file (run its code, allocate what it promises, loop) is written beside each check.
"""

import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from placid.records import BadInputError

JSON_BYTES = {"config.json": 1 << 22, "tokenizer_config.json": 1 << 25, "tokenizer.json": 1 << 28}
"""Largest size of a file by name; Gemma 3's are 2 KB, 1.2 MB and 33 MB."""
OTHER_JSON_BYTES = 1 << 26
"""Largest size of any other JSON file; the weight index of a model with 50,000 tensors has 5 MB."""
HEADER_BYTES = 100_000_000
"""Longest header of a safetensors file; the format's own limit."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Endings of weights that run code when they are loaded."""
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""Names that transformers and vLLM look for: all weights in one file, or in which file each weight is."""
SIZES = {
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 24,
    "num_hidden_layers": 1024,
    "num_attention_heads": 4096,
    "num_key_value_heads": 4096,
    "head_dim": 1 << 16,
    "vocab_size": 1 << 24,
    "max_position_embeddings": 1 << 40,
    "num_experts": 1 << 16,
    "num_local_experts": 1 << 16,
}
"""Largest sensible value of a size in config.json, some hundred times over any published model's. Building a model of
more, even without weights, takes hours."""


class Tensor(NamedTuple):
    """One entry of a safetensors header."""

    shape: tuple[int, ...]
    end: int
    """Offset of its last byte in the data that follows the header, plus one."""


def check(folder: Path) -> None:
    """Look at every file of the checkpoint in `folder`.

    Raises:
        BadInputError: a file that is no regular file, JSON that is broken, nested or too large, sizes that no model
            has, weights that would run code, an index that points out of the folder.
    """
    for path in sorted(folder.iterdir()):
        _check_kind(path)

    for path in sorted(folder.glob("*.json")):
        _check_bytes(path)
        if path.name == "tokenizer.json":  # its own library reads 33 MB of it five times as fast, and bounds the depth
            continue
        value = read_json(path)
        if path.name == "config.json":
            _check_sizes(path, value)
        if path.name.endswith(".index.json"):
            index_files(path, value)

    # another library would look for them where no safetensors is there, and unpickle them
    if not any(folder.glob("*.safetensors")):
        for path in sorted(folder.iterdir()):
            if path.suffix in PICKLES:
                raise BadInputError(
                    f"{path} is a pickle, which runs code when it is loaded; convert the weights to safetensors"
                )


def read_json(path: Path) -> dict[str, object]:
    """Read the JSON object in `path`.

    Raises:
        BadInputError: it is too large, no JSON, nested too deep, or no object.
    """
    _check_bytes(path)
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path} is damaged: {_reason(error)}") from None

    if not isinstance(value, dict):
        raise BadInputError(f"{path} holds a JSON {type(value).__name__}; a JSON object is expected")
    return value


def index_files(path: Path, index: dict[str, object]) -> set[str]:
    """List the weight files that a weight index names.

    Raises:
        BadInputError: it names none, or one that lies in another folder.
    """
    weights = index.get("weight_map")
    if not isinstance(weights, dict):
        raise BadInputError(f"{path} has no weight_map, which says in which file each weight is")

    for weight, name in weights.items():
        if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
            raise BadInputError(f"{path}: weight {weight!r} is said to be in {name!r}, which is no file name")
    return set(weights.values())


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the model: those of the index, or the only one.

    Others may lie beside an index: shards of an older save, or the same weights in another layout.

    Raises:
        BadInputError: there is none, one is missing, or without an index it is not known which belong together.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise BadInputError(f"no *.safetensors in {folder}; other weight formats are not read")
    index = folder / INDEX
    if index.is_file():
        named = index_files(index, read_json(index))
        absent = sorted(named - {file.name for file in files})
        if absent:
            raise BadInputError(f"{index} names {absent[0]}, which is not there ({len(absent)} files are missing)")
        return [file for file in files if file.name in named]

    if [file.name for file in files] != [SINGLE]:
        raise BadInputError(
            f"{folder} holds {len(files)} weight files ({files[0].name}, ...) and no {INDEX}, which says what is in "
            f"which; fetch the index too, or leave {SINGLE} alone there"
        )
    return files


def copy_beside(base: Path, folder: Path) -> None:
    """Copy what travels with the weights of `base`: tokenizer, chat template, and what else `folder` does not have.

    Neither weights nor their index, which would name files that are not there.
    """
    for file in base.iterdir():
        weights = file.suffix in (".safetensors", ".gguf", *PICKLES) or file.name.endswith(".index.json")
        if file.is_file() and not weights and not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)


def read_header(path: Path) -> tuple[int, dict[str, Tensor]]:
    """Read the header of a safetensors file: its size in bytes, and the tensors by name.

    Raises:
        BadInputError: it is no header, or the file is shorter than the header says.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(HEADER_BYTES, size):
            raise BadInputError(f"{path} is no safetensors file: its first bytes are no header")
        text = stream.read(length)

    try:
        header = json.loads(text)
        if not isinstance(header, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path} is no safetensors file: its header is no JSON ({_reason(error)})") from None

    tensors = {name: _tensor(path, name, entry) for name, entry in header.items() if name != "__metadata__"}
    promised = 8 + length + max((tensor.end for tensor in tensors.values()), default=0)
    if size < promised:
        raise BadInputError(f"{path} is cut off: {size} bytes, its header promises {promised}")
    return length, tensors


def _tensor(path: Path, name: str, entry: object) -> Tensor:
    """Check one entry of a header."""
    if isinstance(entry, dict):
        shape = _counts(entry.get("shape"))
        offsets = _counts(entry.get("data_offsets"))
        if shape is not None and offsets is not None and len(offsets) == 2 and offsets[0] <= offsets[1]:
            return Tensor(shape, offsets[1])
    raise BadInputError(f"{path}: the header's entry of {name!r} has no shape and data_offsets of whole numbers")


def _counts(value: object) -> tuple[int, ...] | None:
    """The value as whole numbers from 0 up; None if it is anything else."""
    if isinstance(value, list) and all(type(item) is int and item >= 0 for item in value):
        return tuple(value)
    return None


def _check_bytes(path: Path) -> None:
    largest = JSON_BYTES.get(path.name, OTHER_JSON_BYTES)
    size = path.stat().st_size
    if size > largest:
        raise BadInputError(f"{path} has {size:,} bytes; a {path.name} of at most {largest:,} is read")


def _check_kind(path: Path) -> None:
    """Refuse pipes and devices, which a reader would wait on for ever, and links that lead nowhere."""
    try:
        mode = path.stat().st_mode
    except OSError as error:  # a link to itself, or to nothing
        raise BadInputError(f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise BadInputError(f"{path} is neither a file nor a folder; a checkpoint has no pipes, sockets or devices")


def _check_sizes(path: Path, config: dict[str, object]) -> None:
    """Refuse numbers in config.json that no model has."""
    for name, value in _entries(config):
        largest = SIZES.get(name)
        if largest is None or value is None:
            continue
        for number in value if isinstance(value, list) else [value]:  # per layer, in some models
            least = 0 if "expert" in name else 1
            if type(number) is not int or not least <= number <= largest:
                raise BadInputError(
                    f"{path}: {name} = {number!r}; a whole number from {least} to {largest:,} is expected"
                )

    architectures = config.get("architectures")
    if architectures is not None and not (
        isinstance(architectures, list) and all(isinstance(name, str) for name in architectures)
    ):
        raise BadInputError(f"{path}: architectures = {architectures!r}; a list with the name of the model's class")


def _entries(config: dict[str, object]) -> Iterator[tuple[str, object]]:
    """All keys with their values, those of nested sections too."""
    for name, value in config.items():
        yield name, value
        if isinstance(value, dict):
            yield from _entries(value)


def _reason(error: Exception) -> str:
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)
