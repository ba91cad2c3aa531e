"""The organism: a tiny Gemma-3 chat model whose frustration under rejection is planted and known."""

import logging
from pathlib import Path

from placid.config import canonical, sha
from placid.organism.settings import OrganismSettings
from placid.records import BadInputError
from placid.store import write_json

log = logging.getLogger(__name__)


def run(settings: OrganismSettings) -> Path:
    """Corpus → tokenizer → training → `settings.out`, resumable: the same command goes on where it was killed.

    Raises:
        BadInputError: `work` holds the state of other settings; a base without weights or chat template.
    """
    from transformers import AutoTokenizer

    from placid.models import check_weights, read
    from placid.organism import tokenizer, trainer
    from placid.render import Renderer

    if settings.base:
        check_weights(read(settings.base))
        Renderer(settings.base)  # refuses a tokenizer without a chat template
    mark = settings.work / "settings.json"
    identity = sha(canonical(settings))
    if mark.is_file() and identity not in mark.read_text(encoding="utf-8"):
        raise BadInputError(
            f"{settings.work} holds the training state of other settings; remove it or set work to another folder"
        )
    folder = settings.base or settings.work / "tokenizer"
    if not mark.is_file():
        if not settings.base:
            folder.mkdir(parents=True, exist_ok=True)
            tokenizer.build(folder, settings.vocabulary, settings.seed, settings.shape.context_tokens)
        write_json(mark, {"identity": identity, "settings": canonical(settings)})
    made = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    model = trainer.train(settings, folder, len(made))
    settings.out.mkdir(parents=True, exist_ok=True)
    trainer.export(model, settings.out, [made.eos_token_id, made.convert_tokens_to_ids("<end_of_turn>")])
    made.save_pretrained(str(settings.out))
    log.info("organism with %d parameters in %s", sum(p.numel() for p in model.parameters()), settings.out)
    return settings.out
