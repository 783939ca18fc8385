"""The prompts: fixed English ones, or a user's file with one a line."""

from __future__ import annotations

from pathlib import Path

from measurement.errors import InputError

# The beginning of children's stories and of plain statements: small models know both.
PROMPTS = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside.",
    "One day, a small dog found a red ball in the park.",
    "Tom and his mother went to the store to buy some bread.",
    "The capital of France is",
)


def lines(dataset: str) -> list[str]:
    """The prompts of a data set: those of a .txt file, else the fixed ones.

    Raises InputError: a file that is missing, empty or not UTF-8 text.
    """
    if not dataset.endswith(".txt"):
        return list(PROMPTS)
    path = Path(dataset).expanduser()
    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); expected a text file, one prompt a line"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; expected one prompt a line") from error
    found = [line for line in found if line]
    if not found:
        raise InputError(f"{path} holds no prompt; expected one a line")
    return found
