"""What a run must not tell: who ran it, on which host, where their home is, and what opens a door.

Text loses it by `clean` before it goes to the store, files by `publishable`. A user or host name that
is an ordinary word or an account that every machine has is left where it stands as a word, and taken
out where it can only be a name: below /home and /Users, before and after an @. Credentials are taken
out always, names and folders unless KEEP_NAMES is `true`.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

KEEP_NAMES = "KEEP_NAMES"
"""Variable that is `true` where runs may name the user, the host and the folders of this machine."""

AS_GIVEN = frozenset({"study", "arm", "design", "pair", "order", "record"})
"""Tags by which runs are found again: a user asks for what is in them. An arm's folders are `home`."""

USER, HOST, SECRET = "[user]", "[host]", "[secret]"

# Accounts, hosts and words of this project: they name nobody, and stand in any text.
_WORDS = """
    root user users admin administrator ubuntu debian fedora centos ec2-user azureuser opc
    runner docker jenkins nobody daemon guest test tests tester develop developer default
    unknown vagrant jovyan kaggle colab www-data postgres build builder shared public service
    system home local localhost localdomain server client worker workers node nodes host hosts
    machine machines compute master macbook macbook-pro macbook-air mac-mini mac-studio imac
    laptop desktop workstation computer python pytorch torch tensorflow mlflow linux darwin
    macos windows apple intel nvidia metal cuda train infer generate stream switch study studies
    trial trials model models data dataset results report analysis tracking serving framework
    frameworks measurement entrypoints benchmark benchmarks mnist transformer bert_tiny
    whisper_tiny tinyllama device_switch eis_predictor deit_small shipped openblas reference
    random synthetic headline resolution float32 float16 bfloat16
"""
_ORDINARY = frozenset(_WORDS.split())
_LEAST = 5  # characters of a name that is no ordinary word
_LEAST_SECRET = 6
_PASSES = 8  # what is left of one name may make another one, in text that is made to
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|APIKEY|PAT"
    r"|(?:API|ACCESS|SECRET|PRIVATE|ACCOUNT|ENCRYPTION|SIGNING)_?KEY)(?:_ID)?(?:$|_)"
    r"|(?:PASSWORD|TOKEN|SECRET|APIKEY)$",
    re.IGNORECASE,
)
# Credentials by their form, whatever variable or file they came from.
_FORMS = re.compile(
    r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_[A-Za-z0-9]{20,}"
    r"|sk-[A-Za-z0-9_-]{20,}|xox[abprs]-[\w-]{10,}|(?:AKIA|ASIA)[0-9A-Z]{16}|pypi-[\w-]{20,}"
    r"|dapi[0-9a-f]{32}|eyJ[\w-]{10,}\.eyJ[\w-]{5,}\.[\w-]*)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
# A digit, because "Basic authentication" is none.
_BEARER = re.compile(r"\b((?:Bearer|Basic)\s+)(?=[A-Za-z._~+/=-]*[0-9])[A-Za-z0-9._~+/=-]{12,}")
_PASSWORD_IN_URL = re.compile(r"://[^\s/?#:]*:([^\s/?#]+)@")
_IN_URL = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{1,20}://)[^\s/?#\"'<>\\]*@")
_IN_QUERY = re.compile(
    r"([?&;](?:[\w-]*(?:token|password|passwd|secret|signature|credential|api_?key|access_?key)"
    r"|sig|key|auth|user|username)=)[^&#\s\"'<>\\]+",
    re.IGNORECASE,
)
# Whose home it is stays out too; Shared is a folder of every Mac.
_HOMES = re.compile(
    r"(?<![\w.])((?:/home/|/Users/|[A-Za-z]:\\+Users\\+))(?!Shared\b)([^/\\\s\"'<>:;,|]+)"
)
_TEXT = frozenset(
    {".json", ".jsonl", ".txt", ".md", ".html", ".csv", ".tsv", ".yaml", ".yml", ".toml", ".cfg", ".ini",
     ".py", ".log", ".svg", ".xml"}
)  # fmt: skip


class _Known(NamedTuple):
    """What this process knows of its user and surroundings, as plain values."""

    homes: tuple[str, ...]
    users: tuple[str, ...]
    hosts: tuple[str, ...]
    secrets: tuple[str, ...]


class _Patterns(NamedTuple):
    secrets: re.Pattern[str] | None
    homes: re.Pattern[str] | None
    hosts: re.Pattern[str] | None
    users: re.Pattern[str] | None
    short: re.Pattern[str] | None  # short names, where they can only be names


def clean(text: str) -> str:
    """`text` without what is private.

    >>> clean("git clone https://me:pass@example.org/a?token=x1")
    'git clone https://example.org/a?token=[secret]'
    >>> clean("cannot read /Users/someone/data/train.npz")
    'cannot read /Users/[user]/data/train.npz'
    """
    if not text or text.isdigit():
        return text
    found = _patterns(_known())
    for _ in range(_PASSES):
        before, text = text, _once(text, found)
        if text == before:
            break
    return text


def _once(text: str, found: _Patterns) -> str:
    if found.secrets:
        text = found.secrets.sub(SECRET, text)
    text = _FORMS.sub(SECRET, text)
    text = _BEARER.sub(rf"\1{SECRET}", text)
    text = _IN_URL.sub(r"\1", text)
    text = _IN_QUERY.sub(rf"\1{SECRET}", text)
    if kept():
        return text
    if found.homes:
        text = found.homes.sub("~", text)
    text = _HOMES.sub(lambda m: m[1] + (m[2] if m[2] == USER else USER), text)
    for pattern, instead in ((found.short, USER), (found.hosts, HOST), (found.users, USER)):
        if pattern:
            text = pattern.sub(instead, text)
    return text


def cleaned(texts: Mapping[str, str]) -> dict[str, str]:
    """`clean` of every value but of those that the user has chosen as names (`AS_GIVEN`)."""
    return {
        key: str(value) if key in AS_GIVEN else clean(str(value)) for key, value in texts.items()
    }


def address(uri: str) -> str:
    """A URI without credentials."""
    return _IN_QUERY.sub(rf"\1{SECRET}", _IN_URL.sub(r"\1", uri))


def home(text: str) -> str:
    """A user's words with ~ for the home folder, which is the same folder and names nobody."""
    found = _patterns(_known()).homes
    return text if kept() or not found else found.sub("~", text)


def ordinary(name: str) -> bool:
    """Whether an account or host of this name is on every machine, so that it names nobody."""
    return name.lower() in _ORDINARY


def kept() -> bool:
    """Whether names and folders may be told."""
    return os.environ.get(KEEP_NAMES, "").strip().lower() in ("true", "1", "yes")


@contextmanager
def publishable(folder: Path) -> Iterator[Path]:
    """A copy of a folder whose text files are clean. A file that is no text and holds something private
    is left out, and a line on standard error says so."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "files"
        for path in sorted(folder.rglob("*")):
            place = target / path.relative_to(folder)
            if path.is_symlink() or not path.is_file():  # a link may lead out of the folder
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            if not _copy(path, place):
                print(
                    f"{path.relative_to(folder)} is not sent to the run: it holds the name of the user, "
                    f"the host, the home folder or a credential; {KEEP_NAMES}=true allows names",
                    file=sys.stderr,
                )
        target.mkdir(exist_ok=True)
        yield target


def _copy(path: Path, place: Path) -> bool:
    if path.suffix.lower() in _TEXT or path.suffix == "":
        with suppress(UnicodeDecodeError):
            text = path.read_bytes().decode()
            place.write_bytes(clean(text).encode())
            return True
    if tells(path):
        return False
    try:
        os.link(path, place)  # weights may be large
    except OSError:  # another file system
        shutil.copyfile(path, place)
    return True


def tells(path: Path) -> bool:
    """Whether a file of any kind holds something private as plain bytes."""
    words = [word.encode() for word in _literal(_known())]
    if not words:
        return False
    overlap = max(map(len, words)) - 1
    with path.open("rb") as stream:
        tail = b""
        while chunk := stream.read(1 << 20):
            block = tail + chunk
            if any(word in block for word in words):
                return True
            tail = block[-overlap:] if overlap else b""
    return False


def _literal(known: _Known) -> list[str]:
    """What is long enough not to be met by chance in any bytes."""
    found = [secret for secret in known.secrets if len(secret) >= 8]
    if not kept():
        found += [home for home in known.homes if len(home) >= 8]
        found += [word for word in (*known.users, *known.hosts) if _distinctive(word, 8)]
    return found


def _known() -> _Known:
    environment = os.environ
    home_folders, names, hosts = [os.path.expanduser("~")], [], [platform.node()]
    with suppress(OSError, KeyError):
        names.append(getpass.getuser())
    with suppress(ImportError, KeyError):  # Windows; a container whose user has no entry
        import pwd

        entry = pwd.getpwuid(os.getuid())
        names += [entry.pw_name, entry.pw_gecos.split(",")[0]]
        home_folders.append(entry.pw_dir)
    names += [environment.get(name, "") for name in _NAMING_USERS]
    hosts += [environment.get(name, "") for name in ("HOSTNAME", "HOST")]
    hosts += [name.partition(".")[0] for name in hosts]
    secrets = {
        value.strip()
        for name, value in environment.items()
        if _SECRET_NAME.search(name) and _secret(value.strip())
    }
    for value in environment.values():
        secrets |= {word for word in _PASSWORD_IN_URL.findall(value) if _secret(word)}
    homes = {os.path.normpath(path) for path in home_folders if path.count("/") and len(path) > 2}
    homes |= {os.path.realpath(home) for home in homes}
    return _Known(
        tuple(sorted(homes - {"/", "/nonexistent", "/home", "/Users", "/tmp"})),  # noqa: S108
        tuple(sorted(set(names) - {""})),
        tuple(sorted(set(hosts) - {""})),
        tuple(sorted(secrets)),
    )


_NAMING_USERS = ("LOGNAME", "USER", "SUDO_USER", "USERNAME", "MLFLOW_TRACKING_USERNAME")


def _secret(value: str) -> bool:
    """A setting such as `true`, a number of seconds, a socket's path or a word of ours is none."""
    if len(value) < _LEAST_SECRET or value.isdigit() or value.startswith("/"):
        return False
    return not ordinary(value)


@cache
def _patterns(known: _Known) -> _Patterns:
    names = [name for name in known.users if not ordinary(name)]
    short = [re.escape(name) for name in names if not _distinctive(name)]
    accounts = "|".join(re.escape(name) for name in known.users)
    hosts = "|".join(re.escape(name) for name in known.hosts)
    only_names = [rf"(?<![\w.-])(?:{accounts})@(?:{hosts})(?![\w-])"] if accounts and hosts else []
    if short:
        listed = "|".join(short)
        only_names += [
            rf"\A(?:{listed})\Z",
            rf"(?<=/)(?:{listed})(?=/|\Z)",
            rf"(?<![\w.-])(?:{listed})(?=@)",
        ]
    return _Patterns(
        _any(known.secrets, r"", r""),
        # not inside a longer path: /srv/home/me is not the home /home/me, and ~ is no part of a name
        _any(known.homes, r"(?<![\w.~-])", r"(?![\w-])"),
        _any(
            [h for h in known.hosts if _distinctive(h)],
            r"(?<![A-Za-z0-9])",
            r"(?![A-Za-z0-9])",
            re.I,
        ),
        _any([n for n in names if _distinctive(n)], r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"),
        re.compile("|".join(only_names)) if only_names else None,
    )


def _distinctive(name: str, least: int = _LEAST) -> bool:
    return len(name) >= least and not ordinary(name)


def _any(
    words: tuple[str, ...] | list[str], before: str, after: str, flags: int = 0
) -> re.Pattern[str] | None:
    """One of the words, also as JSON and as an address would write it; the longest first."""
    forms = {form for word in words for form in (word, json.dumps(word)[1:-1], quote(word))}
    if not forms:
        return None
    listed = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
    return re.compile(f"{before}(?:{listed}){after}", flags)
