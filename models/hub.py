"""Where a checkpoint's files are: a folder here, or fetched from the Hugging Face hub."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from measurement.errors import InputError
from models import download

_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
_ANSWER_SECONDS = 10.0


def folder(checkpoint: str, data_dir: str) -> Path:
    """The folder of the files of `checkpoint`: a folder, a file in one, or a hub id `owner/name` or
    `owner/name@revision`, whose *.safetensors and *.json are fetched first.

    Raises InputError: no such folder, no such id, no network and nothing in the cache.
    """
    path = Path(checkpoint).expanduser()
    if path.exists():
        return path.parent if path.is_file() else path
    if not _ID.fullmatch(checkpoint) or checkpoint.endswith(".safetensors"):
        raise InputError(
            f"checkpoint {checkpoint!r} is no folder or file here; expected 'random', a folder with"
            " config.json and model.safetensors, or a hub id owner/name[@revision]"
        )
    return _fetch(checkpoint, data_dir)


@cache
def _fetch(checkpoint: str, data_dir: str) -> Path:
    """From the hub or its cache; resumable, progress on stderr. The hub's own cache for data_dir
    "auto", because that is where a user's models already are."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = checkpoint.partition("@")
    place = None if data_dir == "auto" else download.directory(data_dir) / "huggingface"
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision or None,
                cache_dir=place,
                allow_patterns=["*.safetensors", "*.json"],
                ignore_patterns=["*/*"],
                etag_timeout=_ANSWER_SECONDS,
            )
        )
    except LocalEntryNotFoundError:
        reason = "the hub cannot be reached and its cache lacks it"
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "with an error")
        reason = f"the hub answered {status}"
    except (HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
    raise InputError(
        f"checkpoint {checkpoint!r} is no folder here, and {reason}; expected a hub id"
        " owner/name[@revision] and a network: correct it, or name a folder with the files"
    )
