"""What Flower must be told before it is imported: our own home, no telemetry, no search for updates, small chunks."""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path

from privet.errors import MissingExtraError

CHUNK = 131072
"""Bytes of a message that travel, and are sent again, as one; one takes 105 s at 10 kbit/s, and Flower waits 180 s."""

POLITE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": str(CHUNK),
}


def prepare_flower(home: Path) -> None:
    """Sets this process up for Flower; call it before anything imports flwr, which reads these when it is imported.

    Args:
        home: where Flower keeps what it keeps, in place of the user's own folder.

    Raises:
        MissingExtraError: flwr is not installed.
    """
    if importlib.util.find_spec("flwr") is None:
        raise MissingExtraError("flwr", "flower")
    os.environ.update(POLITE, FLWR_HOME=str(home))
    logging.getLogger("flwr").setLevel(logging.ERROR)
