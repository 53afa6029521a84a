"""What the coded obfuscators share: a small network on the device names a code, and the code's prototype leaves."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field, InstanceOf, WithJsonSchema
from torch import Tensor, nn
from torch.nn import functional

from privet import parts
from privet.inference.obfuscators.contract import Obfuscator, Sides, UserModel
from privet.models.contract import Model
from privet.models.fitting import Fitting
from privet.parts import part
from privet.randomness import Source

_CHUNK = 1000
_TEMPERATURE = 3.0  # at which the model's answers are taught: its doubts among classes teach more than its choice
_TAUGHT = 0.7  # weight of the model's answers against the labels'


def _model(given: Any) -> Any:
    if isinstance(given, str):
        return parts.build("models", {"name": given})
    return parts.build("models", given) if isinstance(given, dict) else given


_Student = Annotated[InstanceOf[Model], BeforeValidator(_model), WithJsonSchema({"type": ["object", "string"]})]


class Lookup(nn.Module):
    """A posterior (n, classes) -> the prototype (n, ...) of the code whose centre is nearest.

    Args:
        count: number of codes.
        classes: of the model.
        shape: of one sample.
    """

    def __init__(self, count: int, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        # Without first weights of its own, for which torch would draw: they are placed or loaded.
        self.nearness = nn.utils.skip_init(nn.Linear, classes, count).requires_grad_(False)
        self.register_buffer("table", torch.zeros(count, *shape))

    def place(self, centres: Tensor) -> None:
        """Sets the centres, (count, classes)."""
        # |p - c|^2 is smallest where p c - |c|^2 / 2 is largest: one linear layer and an argmax.
        self.nearness.weight.copy_(centres)
        self.nearness.bias.copy_(-centres.square().sum(1) / 2)

    def nearest(self, posterior: Tensor) -> Tensor:
        """Returns each row's code, int64 (n,)."""
        near: Tensor = self.nearness(posterior)
        return near.argmax(1)

    def forward(self, posterior: Tensor) -> Tensor:
        """Returns the prototypes (n, ...)."""
        return self.get_buffer("table")[self.nearest(posterior)]


@part
class Distilled(Obfuscator):
    """A student of the model runs on the device; what leaves is one row of a table that is the same for all samples.

    The table's rows are training rows of the model's owner, who publishes them with it.

    Attributes:
        student: the network on the device, a part of the models: its name or its table.
        epochs: passes over the rows.
        learning_rate: peak step size of Adam, which rises and falls once.
        batch_size: rows a step.
        shift: images are moved by at most so many pixels each way in training; other rows stay as they are.

    References:
        Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015, section 2.
    """

    student: _Student = Field("small-cnn", validate_default=True)
    epochs: Annotated[int, Field(ge=1)] = 16
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    batch_size: Annotated[int, Field(ge=2)] = 128
    shift: Annotated[int, Field(ge=0)] = 2

    @abstractmethod
    def count(self, classes: int) -> int:
        """Returns the number of rows of the table."""

    @abstractmethod
    def centres(self, posterior: Tensor) -> Tensor:
        """Returns the codes' centres (count, classes) for the posteriors (n, classes) of training rows."""

    def build(self, shape: tuple[int, ...], classes: int) -> Sides:
        encoder = nn.Sequential(self.student.build(shape, classes), nn.Softmax(1))
        return Sides(encoder, Lookup(self.count(classes), classes, shape))

    def codes(self, sides: Sides) -> float:
        return len(sides.decoder.get_buffer("table").flatten(1).unique(dim=0))

    def fit(self, model: UserModel, rng: Source) -> Sides:
        taught = (_answers(model) / _TEMPERATURE).softmax(1)

        def lost(sides: Sides, batch: Tensor) -> Tensor:
            logits = sides.encoder[0](self._moved(model.inputs[batch]))  # type: ignore[index]
            right = functional.cross_entropy(logits, model.labels[batch])
            alike = functional.kl_div((logits / _TEMPERATURE).log_softmax(1), taught[batch], reduction="batchmean")
            return (1 - _TAUGHT) * right + _TAUGHT * _TEMPERATURE**2 * alike

        fitting = Fitting(self.epochs, self.learning_rate, self.batch_size)
        return self.coded(fitting(lambda: self.build(model.shape, model.classes), lost, len(model.inputs), rng), model)

    def _moved(self, images: Tensor) -> Tensor:
        """Returns images each moved by a random number of pixels, what comes in from outside being 0."""
        if not self.shift or images.ndim != 4:
            return images
        count, (height, width) = len(images), images.shape[2:]
        wide = functional.pad(images, [self.shift] * 4)
        down, right = torch.randint(2 * self.shift + 1, (2, count, 1))
        rows, columns = torch.arange(height) + down, torch.arange(width) + right
        return wide.movedim(1, 3)[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None]].movedim(3, 1)

    @torch.no_grad()
    def coded(self, sides: Sides, model: UserModel) -> Sides:
        """Returns networks whose student is trained, with the codes made for it.

        A code's prototype is the row of it that the model is surest of, for its commonest class; a code without such a
        row gets the surest of the class that its centre names.

        Args:
            sides: the networks, of this part or of another one with the same student.
            model: and the rows, among which the prototypes are found.
        """
        answers, lookup = _answers(model), Lookup(self.count(model.classes), model.classes, model.shape)
        posterior = torch.cat([sides.encoder(rows) for rows in model.inputs.split(_CHUNK)])
        centres = self.centres(posterior)
        lookup.place(centres)
        sure, code = answers.softmax(1), lookup.nearest(posterior)
        sure = sure * (functional.one_hot(model.labels, model.classes) * 2 - 1)  # a row of another class never wins
        for at, centre in enumerate(centres):
            mine = (code == at).nonzero().flatten()
            label = int(model.labels[mine].mode().values) if len(mine) else int(centre.argmax())
            best = mine[sure[mine, label].argmax()] if len(mine) else sure[:, label].argmax()
            if int(answers[best].argmax()) != label:
                best = sure[:, label].argmax()
            lookup.get_buffer("table")[at] = model.inputs[best]
        return Sides(sides.encoder, lookup).eval()


@torch.no_grad()
def _answers(model: UserModel) -> Tensor:
    with model.still() as network:
        return torch.cat([network(rows) for rows in model.inputs.split(_CHUNK)])
