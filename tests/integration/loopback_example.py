"""The example ``examples/fleet/loopback.py`` as a module, for tests that start processes as it does."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).parents[2] / "examples" / "fleet"


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("loopback", EXAMPLES / "loopback.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["loopback"] = module
    spec.loader.exec_module(module)
    return module


loopback = _loaded()
