"""Brings a pinned file from the network, and says where data files lie.

A download goes to a ``.part`` file beside its place, is resumed where it stopped, checked against
its pinned sha256 and then renamed: a file at its place is always the whole, right one.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import http.client
import os
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from privet.errors import DataError, UnreachableError

_STEP = 1 << 16

Progress = Callable[[int, int], None]
"""Called with (bytes here, bytes in all) while a file comes; all is 0 when the server doesn't say."""


@dataclass(frozen=True)
class Download:
    """A file that can be fetched.

    Attributes:
        file: its name, uncompressed.
        url: where it comes from; a ``.gz`` address is unpacked on arrival.
        sha256: of the uncompressed file, in hexadecimal.
        bytes: length of the uncompressed file.
    """

    file: str
    url: str
    sha256: str
    bytes: int


def data_folders(name: str, folder: str | Path | None = None) -> list[Path]:
    """Returns where the files of a data set are looked for, in order; a download goes to the first.

    ``folder`` itself if given, ``$PRIVET_DATA/name`` if that is set, the user's cache
    (``$XDG_CACHE_HOME/privet/name``, else ``~/.cache/privet/name``).
    """
    found = [Path(folder).expanduser()] if folder else []
    if os.environ.get("PRIVET_DATA"):
        found.append(Path(os.environ["PRIVET_DATA"]).expanduser() / name)
    cache = os.environ.get("XDG_CACHE_HOME")
    return [*found, (Path(cache) if cache else Path.home() / ".cache") / "privet" / name]


def find_file(name: str, file: str, packed: str, folder: str | None, do: str) -> Path:
    """Returns a file of a data set that is here, plain or packed.

    Args:
        name: of the data set.
        file: its plain name.
        packed: ending of the packed one, for example ``.gz``.
        folder: as for :func:`data_folders`.
        do: how to bring it.

    Raises:
        DataError: it is in none of the folders.
    """
    places = data_folders(name, folder)
    for place in places:
        for found in (place / file, place / f"{file}{packed}"):
            if found.is_file():
                return found
    where = ", ".join(str(place) for place in places)
    raise DataError(f"{name}: no file {file}, plain or {packed}, in {where}", do=do)


def fetch(
    url: str,
    path: Path,
    sha256: str,
    *,
    largest: int = 1 << 30,
    timeout: float = 30.0,
    progress: Progress | None = None,
) -> Path:
    """Brings a file to ``path``, or finds it there already; an interrupted download goes on where it stopped.

    Args:
        url: an http or https address. When it ends in ``.gz`` and ``path`` doesn't, the file is unpacked.
        path: where the file goes; its folder is made.
        sha256: of the file as it lies at ``path`` (so: unpacked), in hexadecimal.
        largest: bytes that neither the download nor the unpacked file may pass.
        timeout: seconds of silence after which the server counts as gone.
        progress: told how far the download is.

    Returns:
        ``path``.

    Raises:
        DataError: the server doesn't have the file, what came is not the pinned file, or the disk refuses.
        UnreachableError: the server does not answer, or the connection broke; what came is kept.
    """
    by_hand = f"bring {url} by hand, unpacked, as {path}" if _unpacks(url, path) else f"bring {url} by hand as {path}"
    if urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"can't fetch {url}", allowed="http and https addresses")
    try:
        if path.is_file() and _digest(path) == sha256:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        with _alone(path.parent):
            if path.is_file() and _digest(path) == sha256:  # another process brought it
                return path
            _download(url, part, by_hand, largest, timeout, progress)
            return _settle(part, path, sha256, _unpacks(url, path), largest, f"{url} is not the pinned file", by_hand)
    except OSError as error:
        raise DataError(
            f"can't write {path} ({error.strerror or error})", do="make room or choose another folder"
        ) from None


def _unpacks(url: str, path: Path) -> bool:
    return urlsplit(url).path.endswith(".gz") and path.suffix != ".gz"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Runs a block while no other process brings a file to a folder; waits for one that does."""
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, part: Path, by_hand: str, largest: int, timeout: float, progress: Progress | None) -> None:
    have = part.stat().st_size if part.is_file() else 0
    response = _open(url, have, by_hand, timeout)
    if response is None:  # the server has no more bytes than we do: the checksum will tell
        return
    with response:
        if response.status != 206 or not _starts_at(response, have):
            have = 0  # it sends the whole file, whatever we asked for
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else 0
        if total > largest:
            raise DataError(f"{url} has {total} bytes", allowed=f"at most {largest}", do=by_hand)
        with part.open("ab" if have else "wb") as file:
            for chunk in _chunks(response, url, by_hand):
                have += len(chunk)
                if have > largest:
                    part.unlink()
                    raise DataError(f"{url} sends more than {largest} bytes", do=by_hand)
                file.write(chunk)
                if progress:
                    progress(have, total)
    if have < total:
        raise UnreachableError(
            f"the connection to {url} ended after {have} of {total} bytes", do=f"run it again to go on, or {by_hand}"
        )


def _starts_at(response: http.client.HTTPResponse, have: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _open(url: str, have: int, by_hand: str, timeout: float) -> http.client.HTTPResponse | None:
    headers = {"User-Agent": "privet", "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  (fetch let only http and https through)
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=timeout)  # noqa: S310
        return response
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            return None
        raise DataError(f"{url} answers {error.code} {error.reason}", do=by_hand) from None
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "reason", error)
        raise UnreachableError(f"can't reach {url} ({why})", do=f"check the network, or {by_hand}") from None


def _chunks(response: http.client.HTTPResponse, url: str, by_hand: str) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(_STEP)
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(
                f"the connection to {url} broke ({error})", do=f"run it again to go on, or {by_hand}"
            ) from None
        if not chunk:
            return
        yield chunk


def _settle(part: Path, path: Path, sha256: str, unpack: bool, largest: int, wrong: str, by_hand: str) -> Path:
    """Moves a finished download to its place, or deletes it: a wrong one must not be resumed."""
    fresh = path.with_name(path.name + ".new")
    try:
        if unpack:
            _unpack(part, fresh, largest)
        else:
            part.replace(fresh)
        got = _digest(fresh)
        if got == sha256:
            fresh.replace(path)
            part.unlink(missing_ok=True)
            return path
        why = f"its sha256 is {got}"
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        why = f"no whole gzip file ({error})"
    finally:
        fresh.unlink(missing_ok=True)
    part.unlink(missing_ok=True)
    raise DataError(f"{wrong}: {why}", allowed=sha256, do=f"run it again, or {by_hand}")


def _unpack(packed: Path, path: Path, largest: int) -> None:
    with gzip.open(packed) as source, path.open("wb") as target:
        have = 0
        while chunk := source.read(_STEP):
            have += len(chunk)
            if have > largest:  # a few kilobytes of gzip must not fill the disk
                raise EOFError(f"it unpacks to more than {largest} bytes")
            target.write(chunk)
