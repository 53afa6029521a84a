"""Named tensors: flattening, digests and files, the same everywhere in Privet."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as _load_bytes
from safetensors.torch import save as _save_bytes
from torch import Tensor, nn

from privet.errors import InputError, RunError

State = dict[str, Tensor]
"""A model's tensors by name, or the difference of two models."""


def flatten(state: Mapping[str, Tensor]) -> Tensor:
    """Returns all values of a state as one float32 vector, in sorted order of names."""
    if not state:
        return torch.zeros(0)
    return torch.cat([state[name].detach().reshape(-1).to(torch.float32) for name in sorted(state)])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> State:
    """Returns the state whose :func:`flatten` is ``vector``, with the shapes and dtypes of ``like``; integers round."""
    out: State = {}
    at = 0
    for name in sorted(like):
        count = like[name].numel()
        part = vector[at : at + count].reshape(like[name].shape)
        out[name] = (part if like[name].is_floating_point() else part.round()).to(like[name].dtype)
        at += count
    return out


def clone(state: Mapping[str, Tensor]) -> State:
    """Returns a detached copy of a state in contiguous memory."""
    return {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in state.items()}


def digest(state: Mapping[str, Tensor]) -> str:
    """Returns the sha256 of a state's names, dtypes, shapes and bytes, in sorted order of names."""
    hasher = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().contiguous()
        hasher.update(f"{name}:{value.dtype}:{tuple(value.shape)}:".encode())
        hasher.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())  # as bytes: NumPy has no bfloat16
    return hasher.hexdigest()


def size_in_bytes(tensors: Iterable[Tensor]) -> int:
    """Returns how many bytes the values of some tensors take on the wire."""
    return sum(value.numel() * value.element_size() for value in tensors)


def to_bytes(state: Mapping[str, Tensor]) -> bytes:
    """Returns a state as safetensors bytes."""
    return _save_bytes({name: value.detach().contiguous() for name, value in state.items()})


def from_bytes(data: bytes) -> State:
    """Returns the state in safetensors bytes.

    Raises:
        RunError: the bytes are not safetensors.
    """
    try:
        return _load_bytes(data)
    except (SafetensorError, ValueError) as error:
        raise RunError(f"not a safetensors file ({error})", do="Privet never opens pickles") from None


def save(state: Mapping[str, Tensor], path: Path) -> None:
    """Writes a state as safetensors; a crash leaves the old file or the new one, never half of one."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(to_bytes(state))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def load(path: Path) -> State:
    """Reads a safetensors file.

    Raises:
        RunError: the file is missing, a symbolic link, or not safetensors.
    """
    if path.is_symlink() or not path.is_file():
        raise RunError(f"{path} is not a file", do="give the path of a safetensors file")
    return from_bytes(path.read_bytes())


def fill(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Gives a network its values.

    Raises:
        InputError: they are another network's, or no numbers; the first name whose values are missing, unknown, of
            another shape, infinite or NaN is named, and the network keeps what it had.
    """
    wanted = network.state_dict()
    for name in sorted({*wanted, *state}):
        has, wants = (tuple(each[name].shape) if name in each else None for each in (state, wanted))
        if has != wants:
            raise InputError(
                f"{name} has no values" if has is None else f"{name} has values of shape {has}",
                allowed="no such name" if wants is None else f"shape {wants}",
                do="take the weights that were saved from this network",
            )
        if not torch.isfinite(state[name]).all():
            raise InputError(f"{name} has values that are infinite or no numbers", do="train it again")
    network.load_state_dict(state)
