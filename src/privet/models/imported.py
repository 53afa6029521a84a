"""A user's own torch module, from a package that is installed on the device."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import packages_distributions
from typing import Any, ClassVar

from torch import nn

from privet.errors import PartError
from privet.models.contract import Model
from privet.parts import Grade, part


class StageCuts(Model):
    """A model of unknown stages, which may be cut after any but the last."""

    def cut(self, network: nn.Sequential, at: str | None = None) -> tuple[nn.Sequential, nn.Sequential]:
        stages = list(network.named_children())
        names = [name for name, _ in stages]
        if at not in names[:-1]:
            allowed = ", ".join(names[:-1]) or "no cut at all: it is no nn.Sequential"
            raise PartError(f"the model can't be cut at {at!r}", allowed=allowed, do="set training.cut")
        end = names.index(at) + 1
        return nn.Sequential(OrderedDict(stages[:end])), nn.Sequential(OrderedDict(stages[end:]))


@dataclass(frozen=True)
class Given(StageCuts):
    """A model made by a function that the caller of :func:`privet.run` passes in.

    Attributes:
        function: takes ``shape`` and ``classes``, returns a torch module.
    """

    function: Callable[..., nn.Module]

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        return _built(self.function, shape, classes, "the model function")


@part
class Imported(StageCuts):
    """A torch module made by ``package.module:function`` of an installed package.

    The function is called with ``shape`` and ``classes``. An ``nn.Sequential`` may be cut after any
    stage but the last; another module can't be cut.

    Attributes:
        function: where the function is, for example ``plant.networks:pump_net``. Its package must
            have been installed (pip), so that no code is picked up from the working folder.
    """

    grade: ClassVar[Grade] = "experimental"

    function: str

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        return _built(self._find(), shape, classes, f"model {self.function!r}")

    def _find(self) -> Callable[..., Any]:
        module, _, attribute = self.function.partition(":")
        package = module.split(".")[0]
        if not attribute or package not in packages_distributions():
            raise PartError(
                f"model {self.function!r} is not in an installed package",
                allowed="package.module:function of a package that pip has installed",
                do=f"install the package {package!r} on every device",
            )
        try:
            found = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise PartError(f"model {self.function!r} can't be imported: {error}") from None
        if not callable(found):
            raise PartError(f"model {self.function!r} is not a function")
        return found  # type: ignore[no-any-return]


def _built(function: Callable[..., Any], shape: tuple[int, ...], classes: int, origin: str) -> nn.Sequential:
    try:
        network = function(shape=shape, classes=classes)
    except Exception as error:
        raise PartError(
            f"{origin} failed for shape={shape}, classes={classes}: {type(error).__name__}: {error}",
            allowed="a function of shape and classes that returns a torch module",
        ) from error
    return as_stages(network, origin)


def as_stages(network: object, origin: str) -> nn.Sequential:
    """Returns a module as named stages: itself when it is an ``nn.Sequential``, else one stage.

    Raises:
        PartError: it is not a torch module.
    """
    if isinstance(network, nn.Sequential):
        return network
    if isinstance(network, nn.Module):
        return nn.Sequential(OrderedDict(module=network))
    raise PartError(f"{origin} returned {type(network).__name__}, not a torch module")
