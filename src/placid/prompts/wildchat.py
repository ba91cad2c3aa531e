"""First user turns of WildChat-1M under the original study's filter.

The study streams the first 20,000 rows of `train`; they all lie in the first shard, so one file is fetched, at a
pinned revision. Rows keep their licence (ODC-BY): they are written where the user says and are not shipped.
"""

import logging
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from placid.records import BadInputError, Prompt

DATASET = "allenai/WildChat-1M"
REVISION = "7d6490e462285cf85d91eabea0f9a954fbddcd1f"
SHARD = "data/train-00000-of-00014.parquet"
"""Rows 0 to about 59,900 of `train`; 231 MB."""
ROWS = 20_000
"""How many rows the study looks at."""
LANGUAGE = "English"
KEYWORDS = (
    "roleplay", "role play", "role-play", "character", "pretend", "fiction", "fanfic", "fanfiction", "dnd", "dungeon",
    "fantasy", "persona", "act as", "write a story", "write me a story",
)  # fmt: skip
"""A first turn that holds one of these, in any case, is dropped."""


def fetch() -> Path:
    """The shard, from the local cache or from the Hub.

    Raises:
        BadInputError: no network and nothing in the cache, with what to do.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; what came of them is said below
    try:
        return Path(hf_hub_download(DATASET, SHARD, repo_type="dataset", revision=REVISION))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise BadInputError(
            f"{DATASET} cannot be fetched here ({type(error).__name__}); where there is a network, run `hf download "
            f"{DATASET} {SHARD} --repo-type dataset --revision {REVISION}`, copy the file, and name it: "
            "placid prompts wildchat --file FILE --out FOLDER"
        ) from None


def rows(file: Path) -> Iterable[Mapping[str, Any]]:
    """The first ROWS rows of a shard, with the columns that are needed.

    Raises:
        BadInputError: the file is no shard of WildChat.
    """
    import polars as pl

    try:
        frame = pl.read_parquet(file, columns=["conversation", "language"], n_rows=ROWS)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise BadInputError(f"{file} is no parquet shard of {DATASET}: {' '.join(str(error).split())[:200]}") from None
    return frame.iter_rows(named=True)


def select(found: Iterable[Mapping[str, Any]], n: int, seed: int) -> list[Prompt]:
    """`n` prompts drawn from the rows that pass the filter; ids are row numbers, because the data's hashes repeat.

    Raises:
        BadInputError: fewer than `n` rows pass.
    """
    kept = [
        Prompt(id=f"wildchat-{number:05d}", text=first, family="wildchat")
        for number, row in enumerate(found)
        if (first := first_turn(row))
    ]
    if len(kept) < n:
        raise BadInputError(f"only {len(kept)} rows of WildChat pass the filter; n = {n} is too many")
    return random.Random(seed).sample(kept, n)


def first_turn(row: Mapping[str, Any]) -> str:
    """The first user turn of an English conversation without any of the keywords; else empty."""
    if row["language"] != LANGUAGE:
        return ""
    turns = row["conversation"] if isinstance(row["conversation"], list) else []  # null in a few rows
    said = (turn.get("content") for turn in turns if isinstance(turn, dict) and turn.get("role") == "user")
    first = next(said, "")
    text = first.strip() if isinstance(first, str) else ""
    return "" if any(word in text.lower() for word in KEYWORDS) else text
