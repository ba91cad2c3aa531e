"""What a checkpoint is, read from its files without loading a weight: size, attention layout, cache bytes, chat rules.

Derived from config.json by building the model on torch's meta device (a second for 27B parameters), so any architecture
that the installed transformers knows is known here, and no table of sizes can be out of date.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from placid.checkpoint_files import check as check_files
from placid.checkpoint_files import read_header, read_json, weight_files
from placid.records import BadInputError

REPLY_SHARE = 0.35
"""Mean reply length over its cap: 178 of 512 tokens in 79 published transcripts of Gemma-3-27B (ARCHITECTURE.md §6)."""
USER_TOKENS = 25
"""A rejection with its chat markers, about."""
PROMPT_TOKENS = 60
"""A first question with its chat markers, about."""
_HEADS = re.compile(r"^(?:base_model\.|model\.|language_model\.)+")
_NOT_TEXT = re.compile(r"vision|audio|multi_modal|image|embed_vision")


@dataclass(frozen=True)
class Layer:
    """What one decoder layer keeps per token."""

    window: int | None
    """Tokens that a sliding-window layer keeps; None: all."""
    kv_values: int
    """Numbers kept per token, keys and values together; 0 where another layer's are shared."""
    kv_heads: int
    """Heads that they belong to; of GPUs beyond as many, several keep the same."""


@dataclass(frozen=True)
class Model:
    """Facts of one checkpoint."""

    folder: Path
    architecture: str
    parameters: int
    """All of them, tied weights once."""
    context_tokens: int
    """Longest context the positions allow."""
    layers: tuple[Layer, ...]
    heads: int
    """Query heads of a layer; tensor parallel divides them."""
    projections: tuple[str, ...]
    """Names of the text layers' linear maps: what LoRA can target."""
    weights: dict[str, tuple[int, ...]]
    """Shape by name of every weight of the text model, prefixes left out that differ between kinds of checkpoint."""
    names: dict[str, tuple[int, ...]]
    """The same with the names that transformers gives them."""

    def kv_bytes(self, tokens: int, split: int = 1) -> int:
        """Bytes of bfloat16 cache for `tokens` tokens of one conversation on each of the `split` GPUs of an engine.

        Sliding layers keep their window.
        """
        return sum(2 * at.kv_values // min(split, at.kv_heads) * min(tokens, at.window or tokens) for at in self.layers)


def final_tokens(turns: int, max_tokens: int) -> int:
    """Expected length of a whole conversation, in tokens."""
    return PROMPT_TOKENS + round(turns * (REPLY_SHARE * max_tokens + USER_TOKENS))


def read(folder: Path) -> Model:
    """The facts of the checkpoint in `folder`.

    Raises:
        BadInputError: no folder, no config.json, an architecture that the installed transformers does not know.
    """
    import torch

    config, model = _skeleton(folder)
    text = config.get_text_config()
    try:
        decoder = model.get_decoder()
        layers = tuple(_layer(text, i, layer.self_attn) for i, layer in enumerate(decoder.layers))
    except AttributeError as error:  # layers without attention (Mamba), or built in another way (GPT-2)
        raise BadInputError(
            f"{folder}: {config.architectures[0]} is built in a way that placid does not know: {error}"
        ) from None
    maps = {
        name.rpartition(".")[2]
        for name, module in decoder.named_modules()
        if isinstance(module, torch.nn.Linear) and "layers." in name
    }
    names = {name: tuple(w.shape) for name, w in model.named_parameters() if not _NOT_TEXT.search(name)}
    return Model(
        folder=folder,
        architecture=config.architectures[0],
        parameters=sum(weight.numel() for weight in model.parameters()),
        context_tokens=text.max_position_embeddings,
        layers=layers,
        heads=text.num_attention_heads,
        projections=tuple(sorted(maps)),
        weights={_plain(name): shape for name, shape in names.items()},
        names=names,
    )


def check_vocabulary(model: Model) -> None:
    """Raises BadInputError if ordinary text can become a token that the embedding has no row for."""
    rows = next((shape[0] for name, shape in model.weights.items() if name == "embed_tokens.weight"), None)
    file = model.folder / "tokenizer.json"
    if rows is None or not file.is_file():
        return
    tokenizer: Any = read_json(file)
    words = tokenizer.get("model", {}).get("vocab", {})
    highest = max(words.values(), default=0) if isinstance(words, dict) else len(words) - 1
    # special ones beyond it are for images, say, and no text becomes them
    added = [token["id"] for token in tokenizer.get("added_tokens", []) if not token.get("special")]
    highest = max([highest, *added])
    if highest >= rows:
        raise BadInputError(
            f"{file} has tokens up to {highest}, but {model.folder} has embeddings for 0 to {rows - 1}; resize the "
            "embedding, or put the tokenizer there that belongs to these weights"
        )


def check_targets(model: Model, targets: Iterable[str]) -> None:
    """Raises BadInputError for a name in lora.targets that no linear map of the text layers bears."""
    unknown = [name for name in targets if name.rpartition(".")[2] not in model.projections]
    if unknown:
        theirs = ", ".join(model.projections)
        raise BadInputError(f"lora.targets: {model.folder} has no {' or '.join(unknown)}; its layers have {theirs}")


def check_context(model: Model, context_tokens: int, turns: int, max_tokens: int) -> None:
    """Refuse a context that most conversations would outgrow; single ones may, and end as context_overflow.

    Raises:
        BadInputError: `context_tokens` is more than the model's positions, or less than an expected conversation.
    """
    if context_tokens > model.context_tokens:
        most = f"{model.folder} has positions for {model.context_tokens}"
        raise BadInputError(f"engine.context_tokens = {context_tokens}: {most}; set at most that")
    needed = final_tokens(turns, max_tokens)
    if needed > context_tokens:
        raise BadInputError(
            f"engine.context_tokens = {context_tokens} is too short for {turns} turns of up to {max_tokens} tokens: "
            f"a conversation is expected to reach {needed}; "
            + ("raise it, or " if needed <= model.context_tokens else f"the model reads {model.context_tokens}; ")
            + "lower turns or max_tokens"
        )


def _skeleton(folder: Path) -> tuple[Any, Any]:
    """transformers' configuration and its model without weights (meta device)."""
    import torch
    import transformers

    if not (folder / "config.json").is_file():
        raise BadInputError(
            f"no config.json in {folder}; expected the folder of a Hugging Face checkpoint"
            + ("" if folder.exists() else " (there is no such folder; `placid fetch` downloads one)")
        )
    check_files(folder)
    try:
        config: Any = transformers.AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # noqa: BLE001 - each architecture's own checks raise what they like
        reason = str(error).splitlines() or [type(error).__name__]
        raise BadInputError(f"{folder}/config.json: {reason[0]}") from None

    architecture = (getattr(config, "architectures", None) or [""])[0]
    kind: Any = getattr(transformers, architecture, None)
    if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel):
        known = f"transformers {transformers.__version__} does not have"
        raise BadInputError(f"{folder}/config.json names architecture {architecture!r}, which {known}")

    try:
        with torch.device("meta"):
            return config, kind._from_config(config)
    except Exception as error:  # noqa: BLE001 - a size of zero or heads that do not divide the width, anywhere inside
        raise BadInputError(f"{folder}/config.json describes no model that can be built: {error}") from None


def _layer(text: Any, index: int, attention: Any) -> Layer:  # noqa: ANN401 - transformers' own, one class per architecture
    kinds: Sequence[str] | None = getattr(text, "layer_types", None)
    sliding = kinds is not None and kinds[index] == "sliding_attention"
    keys, values = (getattr(attention, name, None) for name in ("k_proj", "v_proj"))
    # Gemma 4: without keys, another layer's are shared; without values, they are made of the keys and kept beside them
    width = keys.out_features + (values or keys).out_features if keys else 0
    heads = keys.out_features // attention.head_dim if keys else 1
    return Layer(window=text.sliding_window if sliding else None, kv_values=width, kv_heads=heads)


def check_weights(model: Model) -> None:
    """Compare names and shapes in the safetensors headers with what the architecture needs.

    Raises:
        BadInputError: no safetensors, a weight that is missing, or one whose shape differs, with its name.
    """
    folder, wanted = model.folder, model.weights
    found = {_plain(name): shape for name, shape in shapes(folder).items() if not _NOT_TEXT.search(name)}
    missing, strange = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing:
        held = f"; it holds {strange[0]} instead" if strange else ""
        count = f"{len(missing)} of {len(wanted)} weights of {model.architecture}"
        raise BadInputError(f"{folder}: {count} are missing, e.g. {missing[0]}{held}")
    for name, shape in wanted.items():
        if name in found and found[name] != shape:
            raise BadInputError(f"{folder}: weight {name} has shape {found[name]}, config.json asks for {shape}")


def _plain(name: str) -> str:
    """Without the prefixes that differ between a text-only and a multimodal checkpoint of the same model."""
    return _HEADS.sub("", name)


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape by name of every tensor, from the headers of the folder's safetensors files.

    Raises:
        BadInputError: there is none, or one is cut off.
    """
    found: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        _, tensors = read_header(file)
        found |= {name: tensor.shape for name, tensor in tensors.items()}
    return found
