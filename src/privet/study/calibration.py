"""Turns what a mechanism's table leaves to the rest of the plan into numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from privet import parts
from privet.accounting import Relation, Sensitivity
from privet.errors import PlanError, PrivetError
from privet.study.part_field import PartOf
from privet.study.problems import KeyBelowError, shown

_MECHANISM = PartOf("mechanisms")
_EPSILON = "epsilon_per_coordinate"


def calibrated(tables: Sequence[Any], batch_size: int | None, relation: Relation) -> list[Any]:
    """Returns a chain's tables with the numbers that the plan implies.

    A table without the ``batch_size`` that its mechanism has takes that of training. A Laplace table with
    ``epsilon_per_coordinate`` gets ``scale`` = (l1 sensitivity of one coordinate after the mechanisms before
    it) / epsilon. A table that is wrong is returned as it is, with those after it, for the plan to refuse.

    Args:
        tables: tables or built mechanisms, in order.
        batch_size: rows in a batch of training; None where the protocol has no batches.
        relation: which data sets are neighbours.

    Raises:
        KeyBelowError: an epsilon can't become a scale, or training has batches of one; the key below is
            counted from the chain.
    """
    done: list[Any] = []
    unknown = math.inf  # the length of a vector is known only once the data is
    sensitivity = Sensitivity("coordinate", relation, dimension=unknown)  # type: ignore[arg-type]
    for place, table in enumerate(tables):
        try:
            resolved = _resolved(table, batch_size, sensitivity, place)
            sensitivity = _MECHANISM.build(resolved).bound(sensitivity)
        except (KeyBelowError, PrivetError) as problem:
            if isinstance(problem, KeyBelowError) and problem.below.endswith((_EPSILON, "batch_size")):
                raise
            return [*done, *tables[place:]]
        except ValueError:
            return [*done, resolved, *tables[place + 1 :]]
        done.append(resolved)
    return done


def _resolved(table: Any, batch_size: int | None, sensitivity: Sensitivity, place: int) -> Any:
    if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
        return table
    fields = {field.name for field in dataclasses.fields(parts.find("mechanisms", table["name"]))}
    out = dict(table)
    if "batch_size" in fields and "batch_size" not in out and batch_size is not None:
        if batch_size < 2:
            wrong = f"{table['name']} takes {batch_size} from training.batch_size, which has no range"
            raise KeyBelowError(
                f"{place}.batch_size", PlanError(wrong, allowed="at least 2", do="raise training.batch_size")
            )
        out["batch_size"] = batch_size
    if _EPSILON in out:
        out["scale"] = _scale(out, out.pop(_EPSILON), sensitivity, f"{place}.{_EPSILON}")
    return out


def _scale(table: Mapping[str, Any], epsilon: Any, sensitivity: Sensitivity, key: str) -> float:
    if table["name"] != "laplace":
        wrong = f"{table['name']} can't be set by an epsilon alone"
        raise KeyBelowError(key, PlanError(wrong, do="give the mechanism's own fields, or use laplace"))
    if "scale" in table:
        raise KeyBelowError(key, PlanError("given together with scale", do="keep one of the two"))
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 < epsilon < math.inf:
        raise KeyBelowError(key, PlanError(f"{shown(epsilon)} is refused", allowed="a finite number, more than 0"))
    change = sensitivity.tightened().l1
    if not math.isfinite(change):
        raise KeyBelowError(
            key,
            PlanError(
                "nothing before it bounds what one coordinate changes, so no scale gives this epsilon",
                do="put bounded-normalisation, or clip with norm 'linf' or 'l1', before it",
            ),
        )
    return change / epsilon
