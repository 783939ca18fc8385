"""Downloads that break off go on where they ended; what comes out is the pinned file or nothing.

The server is on this machine, see file_server.py.
"""

from __future__ import annotations

import fcntl
import hashlib
import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
from file_server import serving

from measurement.errors import InputError
from models import download, transfer
from models.download import Unavailable

NAME = "archive.zip"
CONTENT = np.random.default_rng(0).bytes(500_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CUT = 4 * transfer.CHUNK_BYTES  # what arrives of a chunk that is cut in two is dropped


@pytest.fixture
def server():
    with serving(CONTENT) as found:
        yield found


@pytest.fixture(autouse=True)
def one_try(monkeypatch):
    """A test that wants the retry sets it."""
    monkeypatch.setattr(download, "RETRIES", 0)
    monkeypatch.setattr(download, "READ_SECONDS", 2.0)


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def cut_off(server, folder, at: int) -> None:
    server.cut = [at]
    with pytest.raises(Unavailable, match="for archive.zip"):
        download.fetch(server.url, SHA256, folder)
    assert names(folder) == {f"{NAME}.part", f"{NAME}.part.json"}
    assert (folder / f"{NAME}.part").read_bytes() == CONTENT[:at]


def fetched(server, folder) -> None:
    path = download.fetch(server.url, SHA256, folder)
    assert path == folder / NAME
    assert path.read_bytes() == CONTENT
    assert names(folder) == {NAME}


def test_a_whole_download_leaves_the_file_alone(server, tmp_path, capfd):
    fetched(server, tmp_path)
    assert server.asked == [(None, None)]
    assert capfd.readouterr() == ("", "  archive.zip: 0.5 / 0.5 MB\n")
    fetched(server, tmp_path)  # there already
    assert len(server.asked) == 1


def test_a_download_that_was_cut_off_goes_on_where_it_ended(server, tmp_path, capfd):
    cut_off(server, tmp_path, CUT)
    fetched(server, tmp_path)
    assert server.asked[1] == (f"bytes={CUT}-", '"one"')
    assert capfd.readouterr().err.splitlines() == [
        "  archive.zip: 0.3 / 0.5 MB",
        "  archive.zip: 0.5 / 0.5 MB",
    ]


def test_it_goes_on_at_once_where_a_retry_is_left(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "RETRIES", 1)
    server.cut = [CUT]
    fetched(server, tmp_path)
    assert [asked for asked, _ in server.asked] == [None, f"bytes={CUT}-"]


def test_a_try_that_brought_nothing_is_the_last(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "RETRIES", 5)
    server.cut = [0, 0]
    with pytest.raises(Unavailable, match="for archive.zip"):
        download.fetch(server.url, SHA256, tmp_path)
    assert len(server.asked) == 1
    assert names(tmp_path) == set()


def test_a_server_without_ranges_starts_over(server, tmp_path):
    cut_off(server, tmp_path, CUT)
    server.ranges = False
    fetched(server, tmp_path)


@pytest.mark.parametrize("tag", ['"one"', 'W/"one"', None])
def test_a_file_that_changed_between_two_tries_starts_over(server, tmp_path, tag):
    """Told by its strong tag; without one the digest of the two halves does not fit."""
    server.tag, server.content = tag, bytes(500_000)
    server.cut = [CUT]
    with pytest.raises(Unavailable):
        download.fetch(server.url, SHA256, tmp_path)
    assert (tmp_path / f"{NAME}.part").read_bytes() == bytes(CUT)
    server.content, server.tag = CONTENT, tag and tag.replace("one", "two")
    fetched(server, tmp_path)
    assert [asked for asked, _ in server.asked] == (
        [None, f"bytes={CUT}-"] if tag == '"one"' else [None, f"bytes={CUT}-", None]
    )


def test_a_part_of_another_file_is_not_continued(server, tmp_path):
    cut_off(server, tmp_path, CUT)
    server.content = b"renewed" * 1000
    path = download.fetch(server.url, hashlib.sha256(server.content).hexdigest(), tmp_path)
    assert path.read_bytes() == server.content
    assert server.asked[1] == (None, None)


@pytest.mark.parametrize("record", [b"", b"{}", b"[]", b"\xff", None])
def test_a_part_of_an_unknown_file_is_not_continued(server, tmp_path, record):
    cut_off(server, tmp_path, CUT)
    known = tmp_path / f"{NAME}.part.json"
    known.unlink() if record is None else known.write_bytes(record)
    fetched(server, tmp_path)
    assert server.asked[1] == (None, None)


def test_a_part_that_is_whole_needs_no_server(server, tmp_path):
    cut_off(server, tmp_path, CUT)
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT)
    fetched(server, tmp_path)
    assert len(server.asked) == 1


def test_a_part_longer_than_the_file_starts_over(server, tmp_path):
    cut_off(server, tmp_path, CUT)
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT + b"x")
    fetched(server, tmp_path)
    assert [asked for asked, _ in server.asked] == [None, "bytes=500001-", None]


def test_another_file_is_refused_and_nothing_is_left(server, tmp_path):
    server.content = bytes(500_000)
    with pytest.raises(Unavailable, match=f"archive.zip does not have the sha256 {SHA256}"):
        download.fetch(server.url, SHA256, tmp_path)
    assert names(tmp_path) == set()
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [404, 500])
def test_an_error_of_the_server_keeps_the_part(server, tmp_path, status):
    cut_off(server, tmp_path, CUT)
    server.ranges, server.status = False, status
    with pytest.raises(Unavailable, match=f"HTTP {status} for archive.zip"):
        download.fetch(server.url, SHA256, tmp_path)
    server.ranges = True
    fetched(server, tmp_path)
    assert server.asked[2][0] == f"bytes={CUT}-"


def test_a_file_of_the_user_is_never_replaced(server, tmp_path):
    (tmp_path / NAME).write_bytes(b"mine")
    with pytest.raises(InputError, match="delete it or move it away") as error:
        download.fetch(server.url, SHA256, tmp_path)
    assert "\n" not in str(error.value)
    assert (tmp_path / NAME).read_bytes() == b"mine"
    assert server.asked == []


def test_two_downloads_of_one_file_do_not_mix(server, tmp_path):
    with open(tmp_path / f"{NAME}.part", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is downloading archive.zip"):
            download.fetch(server.url, SHA256, tmp_path)
    fetched(server, tmp_path)


def test_a_large_file_is_never_held_in_memory(server, tmp_path):
    part = 50_000
    server.content = bytes(8_000_000)
    sha256 = hashlib.sha256(server.content).hexdigest()
    with open(tmp_path / "x.part", "ab+") as stream:
        tracemalloc.start()
        try:
            server.cut = [len(server.content) - part]  # the server's own copy is a slice of zeros
            with pytest.raises(Exception, match="IncompleteRead"):
                transfer.receive(server.url, sha256, stream, (2.0, 2.0))
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            assert transfer.receive(server.url, sha256, stream, (2.0, 2.0))
            assert tracemalloc.get_traced_memory()[1] - before < 2_000_000
        finally:
            tracemalloc.stop()


def test_collect_records_where_a_large_file_came_from(server, tmp_path):
    @dataclass(frozen=True)
    class File:
        name: str

    def get(missing):
        for file in missing:
            yield file, download.fetch(server.url, SHA256, tmp_path)

    def check(content, file):
        pytest.fail("its digest was checked already")

    download.collect("it", [File(NAME)], [("a mirror", get)], check, tmp_path)
    assert names(tmp_path) == {NAME, f"{NAME}.json"}
    assert download.source(tmp_path / NAME) == "a mirror"
