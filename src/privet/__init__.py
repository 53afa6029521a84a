"""Privet: machine learning on IoT fleets whose data nobody else may see, with the proof of how private it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from privet.parts import part as part
    from privet.study.plan import Plan as Plan
    from privet.study.run import Run as Run
    from privet.study.run import run as run

_LAZY = {"Plan": "privet.study.plan", "Run": "privet.study.run", "run": "privet.study.run", "part": "privet.parts"}
__all__ = ["Plan", "Run", "__version__", "part", "run"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    if not name.startswith("_"):
        from importlib import import_module

        try:
            return import_module(f"privet.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"privet.{name}":
                raise
    raise AttributeError(f"module 'privet' has no attribute {name!r}")
