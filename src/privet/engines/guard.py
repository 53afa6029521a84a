"""Guards on what comes back: a bad reply is left out and named, and never stops the round."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from privet.engines.contract import Message, Reply


def objection(reply: Reply, expected: Mapping[str, Tensor], message: Message, deadline: float | None = None) -> str:
    """Returns why a reply must be left out, or "" when it is sound.

    Args:
        reply: what came back.
        expected: names, shapes and dtypes of the tensors asked for.
        message: what was asked.
        deadline: seconds (modelled) after which a reply counts as late.
    """
    if reply.missing:
        return reply.missing
    if reply.round != message.round:
        return f"stale: it answers round {reply.round}, not {message.round}"
    if reply.base != message.base:
        return "another model's update: it did not start from this round's global model"
    if deadline is not None and not reply.delay <= deadline:  # NaN is late too
        return f"late: {reply.delay:.1f} s after the start, the deadline is {deadline:g} s"
    if reply.tensors.keys() != expected.keys():
        odd = sorted(reply.tensors.keys() ^ expected.keys())
        return f"wrong tensors: {', '.join(odd[:3])}"
    for name, value in expected.items():
        got = reply.tensors[name]
        if got.shape != value.shape:
            return f"wrong shape: {name} is {tuple(got.shape)}, not {tuple(value.shape)}"
        if got.dtype != value.dtype:
            return f"wrong dtype: {name} is {got.dtype}, not {value.dtype}"
        # A sum is 30 times faster than isfinite; only where it overflows is every value looked at.
        if not torch.isfinite(got.sum()) and not torch.isfinite(got).all():
            return f"not finite: {name} holds NaN or infinity"
    return ""
