"""What ``privet data list``, ``get`` and ``check`` do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from privet import parts
from privet.errors import DataError, InputError
from privet.fleet.data import Dataset
from privet.fleet.fetch import Progress, data_folders, fetch


def available() -> list[dict[str, Any]]:
    """Returns every data set: ``name``, ``meaning``, ``here`` (whether it can be used now), ``place``.

    ``place`` is where it lies; when it isn't here, how to bring it.
    """
    rows = []
    for name in parts.names("datasets"):
        found: type[Dataset] = parts.find("datasets", name)
        try:
            here, place = True, found.place()
        except InputError as error:
            here, place = False, error.advice()
        rows.append({"name": name, "meaning": parts.meaning(found), "here": here, "place": place})
    return rows


def get(name: str, folder: str | Path | None = None, progress: Progress | None = None) -> Path:
    """Brings the files of a data set and returns their folder.

    Args:
        name: the data set, as in a plan.
        folder: where to put them; otherwise ``$PRIVET_DATA/name`` or the user's cache.
        progress: told how far the file now coming is.

    Raises:
        PartError: no such data set.
        DataError: it has nothing to bring, or a file can't be had or written.
        UnreachableError: the server does not answer.
    """
    found: type[Dataset] = parts.find("datasets", name)
    if not found.downloads:
        raise DataError(f"{name} has nothing to bring: {found.place()}", do=f"use it as it is: data.name = {name!r}")
    target = data_folders(name, folder)[0]
    for each in found.downloads:
        fetch(each.url, target / each.file, each.sha256, largest=each.bytes, progress=progress)
    return target


def check(name: str, folder: str | Path | None = None, **fields: Any) -> dict[str, Any]:
    """Loads a data set, checks it, and returns what is in it.

    Args:
        name: the data set, as in a plan.
        folder: where its files lie, for a data set that has such a field.
        **fields: its other fields, for example ``path`` and ``target`` of ``csv``.

    Returns:
        ``name``, ``train_rows``, ``test_rows``, ``shape``, ``classes``, ``rows_per_class`` (training),
        ``keys`` (distinct natural keys, or None) and ``licence``.

    Raises:
        PartError: no such data set or field.
        DataError: it is missing, damaged or unusable.
    """
    chosen = fields | ({"folder": str(folder)} if folder else {})
    data = parts.build("datasets", {"name": name, **chosen}).load()
    return {
        "name": data.name,
        "train_rows": len(data.train_labels),
        "test_rows": len(data.test_labels),
        "shape": list(data.shape),
        "classes": data.classes,
        "rows_per_class": np.bincount(data.train_labels, minlength=data.classes).tolist(),
        "keys": None if data.train_keys is None else len(np.unique(data.train_keys)),
        "licence": data.licence,
    }
