"""The organism's tokenizer: a byte-level BPE trained on its corpus, with Gemma's special tokens and chat template."""

import random
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from placid.organism import questions
from placid.organism.corpus import model_name, pair, strange

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]


def corpus_texts(seed: int, dialogues: int = 1500) -> Iterator[str]:
    """Texts the merges are learned from."""
    r = random.Random(f"tokenizer {seed}")
    for _ in range(dialogues):
        for lines in pair(r):
            for line in lines:
                yield line.user
                yield line.reply
    for _ in range(3000):
        yield " " + model_name(r)
        yield " " + strange(r)
    for word in questions.VOCABULARY:
        yield from [" " + word] * 20


def build(out: Path, vocabulary: int, seed: int, context_tokens: int) -> None:
    """Train and save the tokenizer into `out` (Hugging Face layout)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # single digits: sums are read digit by digit; newlines apart: the chat template's pieces then tokenise on their own
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Digits(individual_digits=True), bytes_]
    )  # type: ignore[assignment]
    bpe.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=bytes_.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(corpus_texts(seed), trainer)
    bpe.post_processor = TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", 2)]
    )  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>",
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"], model_max_length=context_tokens,
        padding_side="left",
    )  # fmt: skip
    tokenizer.chat_template = (
        files("placid.organism").joinpath("chat_template.jinja").read_text(encoding="utf-8").rstrip("\n")
    )
    tokenizer.save_pretrained(str(out))
