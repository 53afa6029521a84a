"""Laws of every obfuscator: shapes, repetition, files, a model that stays as it is, and codes that are counted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from privet import parts
from privet.accounting.release_bits import ReleaseBits
from privet.errors import PartError
from privet.inference.obfuscation import Obfuscation, Trained
from privet.inference.obfuscators import Obfuscator
from privet.inference.obfuscators.response import Response
from privet.inference.obfuscators.student import Distilled
from privet.models.mlp import Mlp
from privet.models.small_cnn import SmallCnn
from privet.randomness import seeded
from privet.tensors import clone

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE, CLASSES, ROWS = (1, 12, 12), 4, 320
NAMES = parts.names("obfuscators")
FIELDS: dict[str, dict[str, Any]] = {
    "noised": {"hidden": 16},
    "bottleneck": {"hidden": 16},
    "adversarial": {"hidden": 16},
    "obfnet2": {"hidden": 16},
    "posterior-codes": {"most": 12},
    "response": {"epsilon": 1.0},
}


def rows(count: int, seed: int, shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor]:
    """Returns noise in which each class has a brighter part of its own, and the classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    inputs = torch.rand(count, *shape, generator=generator) * 0.5
    inputs.view(count, CLASSES, -1)[torch.arange(count), labels] += 0.4
    return inputs, labels


def model(shape: tuple[int, ...] = SHAPE) -> Trained:
    """Returns a user model that is right: it looks where the brighter part is."""
    part = Mlp((CLASSES,))
    network = part.build(shape, CLASSES)
    size = math.prod(shape)
    with torch.no_grad():
        for layer, scale in (
            (network.get_submodule("linear1"), 10 * CLASSES / size),
            (network.get_submodule("logits"), 1),
        ):
            layer.weight.zero_()
            layer.bias.zero_()
            layer.weight.view(CLASSES, CLASSES, -1)[torch.arange(CLASSES), torch.arange(CLASSES)] = scale
    return Trained(part, network.eval(), shape, CLASSES, {"made": "by hand"})


def build(name: str, **fields: Any) -> Obfuscator:
    return parts.build("obfuscators", {"name": name, "epochs": 2, "batch_size": 64} | FIELDS.get(name, {}) | fields)


def trained(name: str, seed: int = 0, count: int = 1, **fields: Any) -> Obfuscation:
    return Obfuscation.train(build(name, **fields), model(), *rows(ROWS, 1), count, seeded(seed))


@pytest.fixture(params=NAMES, scope="module")
def made(request: pytest.FixtureRequest) -> Obfuscation:
    torch.default_generator.manual_seed(0)
    return trained(request.param)


def noisy(made: Obfuscation) -> bool:
    return bool(made.obfuscator.noise.mechanisms)


def test_what_leaves_has_the_samples_shape_and_samples_stay(made: Obfuscation) -> None:
    samples, _ = rows(8, 2)
    before = samples.clone()
    released = made.release(samples, seeded(3))
    assert released.shape == samples.shape
    assert released.dtype == torch.float32
    assert released.isfinite().all()
    assert torch.equal(samples, before)
    assert made.release(samples[:0], seeded(3)).shape == (0, *SHAPE)
    assert made.answer(released).shape == (8, CLASSES)


def test_it_repeats_from_the_same_noise_and_only_noise_changes_it(made: Obfuscation) -> None:
    samples, _ = rows(64, 2)
    one, again, other = (made.release(samples, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert torch.equal(one, other) is not noisy(made)


def test_what_leaves_for_one_sample_depends_on_no_other(made: Obfuscation) -> None:
    if noisy(made):
        pytest.skip("its noise is drawn for all at once")
    samples, _ = rows(6, 2)
    alone = torch.cat([made.release(one[None], seeded(3)) for one in samples])
    torch.testing.assert_close(made.release(samples, seeded(3)), alone, rtol=1e-4, atol=1e-5)


def test_a_folder_gives_the_same_bits_back(made: Obfuscation, tmp_path: Path) -> None:
    made.save(tmp_path)
    back = Obfuscation.load(tmp_path)
    samples, _ = rows(8, 2)
    assert back.obfuscator == made.obfuscator
    assert parts.to_table(back.obfuscator) == parts.to_table(made.obfuscator)
    assert torch.equal(back.release(samples, seeded(3)), made.release(samples, seeded(3)))
    assert torch.equal(back.answer(samples), made.answer(samples))
    assert back.bits() == made.bits()


@pytest.mark.parametrize("name", NAMES)
def test_training_leaves_the_model_and_torchs_stream_alone_and_repeats(name: str) -> None:
    user = model()
    user.network.train()
    before, stream = clone(user.network.state_dict()), torch.get_rng_state()
    one, two, other = (Obfuscation.train(build(name), user, *rows(ROWS, 1), 1, seeded(seed)) for seed in (5, 5, 6))
    assert all(torch.equal(value, before[key]) for key, value in user.network.state_dict().items())
    assert all(value.requires_grad for value in user.network.parameters())
    assert user.network.training
    assert torch.equal(torch.get_rng_state(), stream)
    samples, _ = rows(64, 2)
    states = [each.sides[0].state_dict() for each in (one, two, other)]
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])
    released = [each.release(samples, seeded(0)) for each in (one, two)]
    same = torch.equal(*released) and all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert same is not one.obfuscator.claims_key  # a key that a seed gives again is no secret


def test_no_more_codes_leave_than_are_counted(made: Obfuscation) -> None:
    count = made.obfuscator.codes(made.sides[0])
    assert (made.obfuscator.grade == "derived") == (math.isfinite(count) or noisy(made))
    if math.isinf(count):
        assert made.bits() == math.inf
        return
    assert made.bits() == math.log2(count)
    samples = torch.cat([rows(200, 7)[0], torch.randn(200, *SHAPE) * 1e6, torch.zeros(1, *SHAPE)])
    released = made.release(samples, seeded(3))
    assert len(released.flatten(1).unique(dim=0)) <= count
    table = made.sides[0].decoder.get_buffer("table")
    assert all((one == table).flatten(1).all(1).any() for one in released)


def test_a_guarantee_is_derived_where_there_is_noise_and_nowhere_else(made: Obfuscation) -> None:
    told = made.obfuscator.guarantee()
    assert (told is not None) is noisy(made)
    if told is not None:
        assert told.formal
        assert (told.unit, told.relation, told.releases) == ("record", "replace-one", 1)


# Coded releases.

CODED = [name for name in NAMES if issubclass(parts.find("obfuscators", name), Distilled)]


@pytest.mark.parametrize("name", CODED)
def test_a_code_stands_for_its_class(name: str) -> None:
    made = trained(name, epochs=12, learning_rate=0.02, shift=0, **({"epsilon": 20.0} if name == "response" else {}))
    samples, labels = rows(200, 9)
    answers = made.answer(made.release(samples, seeded(0))).argmax(1)
    assert (answers == labels).double().mean() > 0.9
    owned, _ = rows(ROWS, 1)
    assert all((one == owned).flatten(1).all(1).any() for one in made.sides[0].decoder.get_buffer("table"))


@pytest.mark.parametrize("shape", [(24,), (6, 8)])
def test_vectors_and_series_have_a_student_too(shape: tuple[int, ...]) -> None:
    coded = build("posterior-codes", student={"name": "mlp", "hidden": [16]})
    made = Obfuscation.train(coded, model(shape), *rows(ROWS, 1, shape), 1, seeded(0))
    samples, _ = rows(20, 2, shape)
    assert made.release(samples, seeded(0)).shape == samples.shape
    assert made.obfuscator.codes(made.sides[0]) <= 12


def test_a_student_is_a_models_part_by_name_or_table() -> None:
    assert build("prototype", student="mlp") == build("prototype", student={"name": "mlp"})
    assert hash(build("prototype")) == hash(build("prototype", student=SmallCnn()))
    for wrong in ("no-such-model", {"name": "mlp", "hiden": [3]}, 7):
        with pytest.raises(PartError, match="student"):
            build("prototype", student=wrong)
    with pytest.raises(PartError, match="can't take inputs of shape"):
        build("prototype").build((24,), 3)


def test_responses_loss_is_epsilon_for_any_number_of_classes() -> None:
    response = Response(epsilon=3.0)
    told = response.guarantee()
    assert told is not None
    assert (told.epsilon, told.delta) == (pytest.approx(3.0), 0.0)
    (mechanism,) = response.noise.mechanisms
    for classes in (2, 10, 1000):
        uniform = mechanism.uniform_part(classes)  # type: ignore[attr-defined]
        assert math.log((1 - uniform + uniform / classes) / (uniform / classes)) <= told.epsilon + 1e-9


def test_moving_keeps_the_picture_and_fills_with_nothing() -> None:
    images = torch.zeros(50, 2, 9, 9)
    images[:, :, 4, 4] = torch.rand(50, 2) + 0.5
    moved = build("prototype", shift=2)._moved(images)
    assert torch.equal(moved.sum((2, 3)), images.sum((2, 3)))
    places = {divmod(int(at), 9) for at in moved[:, 0].flatten(1).argmax(1)}
    assert len(places) > 10
    assert all(abs(row - 4) <= 2 and abs(column - 4) <= 2 for row, column in places)
    assert torch.equal(moved[:, 0].flatten(1).argmax(1), moved[:, 1].flatten(1).argmax(1))


# The bound: no attack by matching exceeds it.


def matching(chances: Tensor) -> float:
    """Returns how often the best attack is right, exactly: chances (records, codes) of each code, records as likely."""
    return float(chances.amax(0).sum() / len(chances))


def matching_in_class(chances: Tensor, labels: Tensor) -> float:
    """Returns the same for an attacker who knows the record's class."""
    found = sum(float(chances[labels == label].amax(0).sum()) for label in labels.unique())
    return found / len(chances)


@settings(max_examples=60)
@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 5), st.booleans(), st.integers(0, 2**31))
def test_matching_never_beats_the_bound(records: int, codes: int, classes: int, random: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sure = torch.nn.functional.one_hot(torch.randint(codes, (records,), generator=generator), codes).double()
    chances = torch.rand(records, codes, generator=generator).double() if random else sure
    chances = chances / chances.sum(1, keepdim=True)
    labels = torch.randint(classes, (records,), generator=generator)
    bits = ReleaseBits(codes)
    assert matching(chances) <= bits.rank_1(records) + 1e-12
    assert matching_in_class(chances, labels) <= bits.rank_1(records, classes) + 1e-12
    twice = (chances[:, :, None] * chances[:, None, :]).flatten(1)  # drawn afresh, twice
    assert matching(twice) <= bits.repeats(2).rank_1(records) + 1e-12
    assert matching(chances) - 1e-12 <= matching(twice)
    assert math.log2(matching(chances) * records) <= bits.bits + 1e-9  # the leakage, from a uniform prior


def test_the_bound_is_reached_so_it_is_not_loose() -> None:
    each_its_own = torch.eye(6).repeat(5, 1).double()  # 30 records, 6 codes
    assert matching(each_its_own) == pytest.approx(ReleaseBits(6).rank_1(30))
    labels = torch.arange(30) // 6
    assert matching_in_class(each_its_own, labels) == pytest.approx(ReleaseBits(6).rank_1(30, 5))


@pytest.mark.parametrize("name", ["posterior-codes", "prototype"])
def test_matching_real_releases_never_beats_the_bound(name: str) -> None:
    made = trained(name)
    samples, labels = rows(400, 11)
    released = made.release(samples, seeded(0)).flatten(1)
    _, code = released.unique(dim=0, return_inverse=True)
    bits = ReleaseBits(int(made.obfuscator.codes(made.sides[0])))
    # A slow and obvious attacker: picks at random among the candidates that would give what was seen.
    expected = sum(1 / int((released == seen).all(1).sum()) for seen in released) / len(released)
    chances = torch.nn.functional.one_hot(code).double()
    assert expected == pytest.approx(matching(chances))
    assert expected <= bits.rank_1(400) + 1e-12
    assert matching_in_class(chances, labels) <= bits.rank_1(400, CLASSES) + 1e-12


def test_a_clean_code_is_bounded_as_one_with_noise(made: Obfuscation) -> None:
    """Whoever compares candidates computes what the noise was added to, not what came before the bound."""
    code = 10 * made.sides[0].encoder(rows(6, 3)[0])
    clean = made.obfuscator.clean(code)
    assert torch.equal(made.obfuscator.clean(clean), clean)
    if made.obfuscator.noise.mechanisms:
        assert not torch.equal(clean, code)


@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 7, 10)])
def test_convolutions_draw_an_image_of_any_size(shape: tuple[int, ...]) -> None:
    sides = build("convolutional", maps=4).build(shape, CLASSES)
    assert sides.decoder(sides.encoder(torch.rand(2, *shape))).shape == (2, *shape)


def test_convolutions_refuse_what_is_no_image() -> None:
    with pytest.raises(PartError, match="images"):
        build("convolutional").build((12,), CLASSES)
