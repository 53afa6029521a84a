"""Architectures, one a file, each naming its cut points."""

from privet.models.contract import Model

__all__ = ["Model"]
