"""Put models on the shared disk from a machine with internet, because compute nodes have none."""

from pathlib import Path

from placid.records import BadInputError

WANTED = ("*.json", "*.safetensors", "*.jinja", "tokenizer*", "*.model", "*.txt")
"""Of a model's repository: weights in one format, tokenizer, templates."""


def model(name: str, revision: str, folder: Path) -> Path:
    """A Hugging Face model in `folder`, as a config's `model` names it. What is there is not fetched again.

    Raises:
        BadInputError: no such name or model or revision, a gated one without a token, no network.
    """
    if name.count("/") != 1:
        raise BadInputError(
            f"{name!r} is no data set of the evals, and a model is called OWNER/NAME: google/gemma-3-27b-it"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        snapshot_download(name, revision=revision or None, local_dir=folder, allow_patterns=list(WANTED))
    except GatedRepoError:
        raise BadInputError(
            f"{name} is gated: accept its licence on its page, then log in by `hf auth login` on this machine"
        ) from None
    except RepositoryNotFoundError:
        raise BadInputError(f"there is no model {name!r} on the Hugging Face Hub, or it is private to others") from None
    except LocalEntryNotFoundError:
        raise BadInputError(
            f"{name} cannot be reached; run placid fetch where there is internet (a login node, without HF_HUB_OFFLINE)"
        ) from None
    except HfHubHTTPError as error:
        raise BadInputError(f"{name}: {str(error).splitlines()[0]}") from None
    if not (folder / "config.json").is_file():
        raise BadInputError(f"{name} holds no config.json, so it is no model that placid could load")
    return folder
