"""The folder of contents: what comes out is what its address says, or one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from privet.errors import ContentError
from privet.ledger.content import cid_of
from privet.ledger.folder_store import FolderStore

LARGE = bytes(range(256)) * 3000  # three chunks of the older profile


@pytest.fixture(params=["unixfs-v0-2015", "unixfs-v1-2025"])
def store(request, tmp_path):
    return FolderStore(tmp_path / "contents", request.param)


def files(store):
    return sorted(path for path in store.folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("data", [b"", b"one", LARGE], ids=["empty", "small", "large"])
def test_what_is_put_is_got_under_its_address(store, data, tmp_path):
    cid = store.put(data)
    assert cid == cid_of(data, store.profile.name)
    assert store.has(cid)
    assert store.get(cid) == data
    (tmp_path / "file").write_bytes(data)
    assert store.put_file(tmp_path / "file") == cid
    assert [path.name for path in files(store)] == [cid]


def test_stores_of_two_profiles_share_a_folder(tmp_path):
    old, new = (FolderStore(tmp_path, profile) for profile in ("unixfs-v0-2015", "unixfs-v1-2025"))
    cid = old.put(LARGE)
    assert cid != new.put(LARGE)
    assert not new.has(cid)


def test_missing_content_is_one_line(store):
    cid = cid_of(b"never put")
    assert not store.has(cid)
    with pytest.raises(ContentError, match=f"no content {cid} in .*; bring it, then try again") as raised:
        store.get(cid)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "empty"])
def test_damaged_content_is_one_line_and_putting_it_again_mends_it(store, damage):
    cid = store.put(LARGE)
    (place,) = files(store)
    data = bytearray(LARGE)
    if damage == "flip":
        data[400_000] ^= 1
    elif damage == "cut":
        del data[-1]
    elif damage == "grow":
        data.append(0)
    else:
        data.clear()
    place.write_bytes(data)
    with pytest.raises(ContentError, match=f"the content {cid} in .* is damaged; delete .*, then bring it again"):
        store.get(cid)
    assert store.put(LARGE) == cid
    assert store.get(cid) == LARGE


def test_content_under_anothers_address_is_damaged(store):
    one, other = store.put(b"one"), store.put(b"other")
    places = {path.name: path for path in files(store)}
    os.replace(places[other], places[one])
    with pytest.raises(ContentError, match="is damaged"):
        store.get(one)


@pytest.mark.parametrize("cid", ["", "../../etc/passwd", "b", "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD"])
def test_what_is_no_address_never_becomes_a_path(store, cid):
    for ask in (store.get, store.has):
        with pytest.raises(ContentError, match="is not an address"):
            ask(cid)


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_write_that_fails_leaves_nothing(store, monkeypatch, moment):
    def fail(*_):
        raise OSError(28, "No space left on device")

    kept = store.put(b"kept")
    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync") if moment == "fsync" else (Path, "replace")), fail)
        with pytest.raises(OSError, match="No space left"):
            store.put(LARGE)
    assert [path.name for path in files(store)] == [kept]


def test_everything_is_on_the_disk_before_the_address_is_given(store, monkeypatch):
    order = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: (order.append(os.readlink(f"/proc/self/fd/{handle}")), fsync(handle))
    )
    monkeypatch.setattr(Path, "replace", lambda part, place: (order.append("replace"), replace(part, place))[1])
    cid = store.put(b"one")
    shelf = store.folder / store.profile.name
    assert Path(order[0]).name.startswith(".part-")
    assert order[1:] == ["replace", str(shelf / cid[-2:]), str(shelf)]


def test_a_folder_is_no_content(store, tmp_path):
    with pytest.raises(ContentError, match="is not a file"):
        store.put_file(tmp_path)
    with pytest.raises(ContentError, match="no profile called"):
        FolderStore(tmp_path, "trickle")
