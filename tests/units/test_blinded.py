"""Blinded inference in one process: exact sums, masks that serve once, lies that are found out, uniform messages."""

import hashlib
import os

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import nn

from privet.errors import InputError, RefusedError
from privet.evidence.similarity import ssim
from privet.fleet.datasets.mnist_10k import Mnist10k
from privet.inference.contract import answered
from privet.inference.distributed import fixed_point
from privet.inference.distributed.blinded import Blinded, Exchange
from privet.inference.distributed.blinded_cost import Site, estimate, here
from privet.inference.distributed.fixed_point import FIELD, WORDS, Kernel, Ring, fixed
from privet.inference.distributed.freivalds import Check, check_of
from privet.inference.distributed.masks import KEY_FILE, NEXT_FILE, Masks
from privet.inference.distributed.networks import Linear, described, paper_network
from privet.randomness import seeded

pytestmark = pytest.mark.usefixtures("one_thread")
RINGS = [FIELD, WORDS]


@pytest.fixture
def masks(tmp_path):
    # The same key each time, so that no test of uniform bytes fails once in a thousand runs.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "urandom", lambda count: hashlib.sha256(b"tests").digest()[:count])
        made = Masks(tmp_path / "masks")
    yield made
    made.close()


def small(*stages, shape=(3, 9, 8)):
    return described(nn.Sequential(*stages), shape)


def product(weight, values, stride, padding):
    """The slow and obvious twin: Python's own whole numbers, one sum at a time."""
    rows, _, high, wide = weight.shape
    padded = np.pad(values, ((0, 0), (padding[0],) * 2, (padding[1],) * 2))
    tall, broad = ((padded.shape[1 + axis] - size) // stride[axis] + 1 for axis, size in enumerate((high, wide)))
    out = np.zeros((rows, tall, broad), dtype=object)
    for row, y, x in np.ndindex(out.shape):
        window = padded[:, y * stride[0] : y * stride[0] + high, x * stride[1] : x * stride[1] + wide]
        out[row, y, x] = sum(int(a) * int(b) for a, b in zip(weight[row].ravel(), window.ravel(), strict=True))
    return out


@pytest.mark.parametrize("ring", RINGS, ids=str)
@pytest.mark.parametrize(("stride", "padding"), [((1, 1), (0, 0)), ((2, 1), (1, 2))])
def test_a_convolution_is_exact_to_the_last_bit_at_the_largest_weights_and_words(ring, stride, padding):
    random = np.random.default_rng(1)
    weight = random.integers(-1, 2, (2, 3, 3, 2)) * (fixed_point.MOST_SUM // 18)
    values = random.integers(ring.half - 9, ring.half + 1, (3, 6, 5)) * random.choice([-1, 1], (3, 6, 5))
    kernel = Kernel(torch.from_numpy(weight).double(), stride, padding)
    made = kernel(torch.from_numpy(values)[None])[0]
    assert np.array_equal(made.numpy(), product(weight, values, stride, padding).astype(np.int64))
    assert int(made.abs().max()) > 2**48


def test_a_linear_layer_is_exact_too_and_batches_come_in_pieces(monkeypatch):
    weight = torch.randint(-9, 10, (4, 7)).double()
    values = torch.randint(-(2**31), 2**31, (3, 7))
    assert torch.equal(Kernel(weight)(values), (values[:, None] * weight.long()).sum(2))
    kernel, images = Kernel(torch.randint(-9, 10, (2, 1, 3, 3)).double()), torch.randint(-(2**31), 2**31, (5, 1, 8, 8))
    whole = kernel(images)
    monkeypatch.setattr(fixed_point, "_ROOM", 1)
    assert torch.equal(kernel(images), whole)
    assert torch.equal(kernel.rows(1, 2)(images), whole[:, 1:])


@pytest.mark.parametrize("ring", RINGS, ids=str)
def test_sums_fit_whatever_the_activations_and_use_the_room_there_is(ring):
    layers = [nn.Conv2d(4, 6, 3, padding=1), nn.Linear(300, 5)]
    for layer, shape in zip(layers, [(4, 6, 6), (300,)], strict=True):
        found = fixed(small(layer, shape=shape).layers[0])
        assert found.largest <= fixed_point.MOST_SUM
        for values in (
            torch.rand(3, *shape),
            torch.randn(3, *shape) * 1e6,
            torch.ones(2, *shape) * 1e-9,
            torch.zeros(2, *shape),
            torch.eye(2, int(np.prod(shape))).reshape(2, *shape) * 1e20,
        ):
            whole, scale = found.quantised(values, ring)
            sums = found.kernel(whole)
            assert int(sums.abs().max()) <= ring.half
            worst = found.reach(whole.double())
            assert (sums.flatten(1).abs().amax(1) <= worst).all()
            if values.any():
                assert (worst > 0.9 * ring.half).all()
            alone = _reference(layer, values)
            near = 1e-3 * float(values.abs().max()) + 1e-7
            assert torch.allclose(found.restored(sums, scale), alone, rtol=1e-3, atol=near)


def _reference(layer, values):
    with torch.no_grad():
        return layer.double()(values.double())


def test_the_two_bounds_hold_for_the_worst_input_of_each():
    found = fixed(small(nn.Linear(50, 3), shape=(50,)).layers[0])
    row = found.kernel.weight[int(found.kernel.weight.abs().sum(1).argmax())]
    for worst in (row.sign() * 1000.0, row * 1.0):
        assert float((found.kernel.weight @ worst).abs().max()) <= float(found.reach(worst[None])[0])


def test_what_could_overflow_is_refused():
    found = fixed(small(nn.Linear(50, 3), shape=(50,)).layers[0])
    most = FIELD.half // found.largest
    row = found.kernel.weight[int(found.kernel.weight.abs().sum(1).argmax())]
    found.refuse_overflow((row.sign() * most)[None], FIELD)
    with pytest.raises(InputError, match="could reach"):
        found.refuse_overflow((row * (FIELD.half / float(row.square().sum()) + 1))[None] * 2, FIELD)
    heavy = fixed_point.FixedLayer(found.layer, found.kernel, found.scale, fixed_point.MOST_SUM + 1, found.longest)
    with pytest.raises(InputError, match="weights that add up to"):
        heavy.refuse_overflow(torch.zeros(1, 50, dtype=torch.float64), FIELD)
    with pytest.raises(InputError, match="32 bits"):
        fixed(Linear("wide", (40_000,), (2,), torch.zeros(2, 40_000), torch.zeros(2)))
    with pytest.raises(InputError, match="not linear"):
        fixed(small(nn.ReLU()).layers[0])
    for value in (torch.nan, torch.inf):
        with pytest.raises(InputError, match="NaN"):
            found.quantised(torch.full((1, 50), value), FIELD)
        with pytest.raises(InputError, match="NaN"):
            fixed(Linear("bad", (2,), (1,), torch.tensor([[1.0, value]]), torch.zeros(1)))


@pytest.mark.parametrize("ring", RINGS, ids=str)
@pytest.mark.parametrize("name", ["lenet", "cifar"])
def test_a_network_answers_as_it_does_undistributed(masks, ring, name):
    network = paper_network(name)
    images = torch.rand(3, *network.inputs)
    blinded = Blinded(network, ring)
    ready = blinded.prepare(masks, 3)
    made = blinded.run(images, ready, masks, blinded.here)
    alone = network(images)
    assert torch.allclose(made, alone.double(), atol=1e-3 * float(alone.abs().max()))
    assert torch.equal(made.argmax(1), alone.argmax(1))


def test_zero_weights_and_stride_and_ceil_pooling_are_no_special_case(masks):
    network = small(
        nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(4 * 3 * 5, 3),
    )
    first = network.layers[0]
    first.weight[1] = 0
    blinded, images = Blinded(network), torch.randn(2, 3, 9, 8)
    at_source = (1,)
    made = blinded.run(images, blinded.prepare(masks, 2, at_source=at_source), masks, blinded.here)
    assert torch.allclose(made, network(images).double(), atol=1e-4)


def test_an_exchange_keeps_the_contract_and_seals_once(masks):
    network = small(nn.Conv2d(3, 4, 3))
    blinded, value = Blinded(network), torch.randn(2, 3, 9, 8)
    masks.take(2)
    mask = torch.stack([masks.mask(at, 0, (3, 9, 8), FIELD) for at in range(2)])
    exchange = Exchange(blinded, 0, mask, blinded.evaluate(0, mask), blinded.here, 0)
    assert torch.allclose(answered(exchange, value), network(value).double(), atol=1e-3)
    with pytest.raises(RefusedError, match="serves once"):
        exchange.seal(value)


def test_masks_of_a_batch_serve_once_and_one_batch_of_its_shape(masks):
    network = small(nn.Conv2d(3, 4, 3))
    blinded, value = Blinded(network), torch.randn(2, 3, 9, 8)
    ready = blinded.prepare(masks, 2)
    with pytest.raises(InputError, match="shape"):
        blinded.run(value[:1], ready, masks, blinded.here)
    blinded.run(value, ready, masks, blinded.here)
    with pytest.raises(RefusedError, match="serve once"):
        blinded.run(value, ready, masks, blinded.here)


def test_a_number_is_never_given_out_twice_over_restarts(tmp_path):
    given = []
    for count in (1, 5, 2, 1):
        masks = Masks(tmp_path)
        first = masks.take(count)
        given += range(first, first + count)
        masks.close()
    assert given == list(range(9))
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_the_disk_knows_before_a_number_is_given_out(tmp_path, monkeypatch):
    masks, synced = Masks(tmp_path), []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(real(number)))
    masks.take(1)
    assert len(synced) == 2, "the file, then its folder"

    def fail(number):
        raise OSError("no disk")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no disk"):
        masks.take(1)
    monkeypatch.setattr(os, "fsync", real)
    assert masks.take(1) >= 1
    masks.close()


def test_a_counter_that_went_back_is_refused(tmp_path):
    masks = Masks(tmp_path)
    masks.take(3)
    old = (tmp_path / NEXT_FILE).read_bytes()
    masks.take(4)
    (tmp_path / NEXT_FILE).write_bytes(old)
    with pytest.raises(RefusedError, match="went back from 7 to 3"):
        masks.take(1)
    masks.close()
    restored = Masks(tmp_path)
    restored.refuse_older(2, "helper/a")
    with pytest.raises(RefusedError, match=r"went back: it is at 3, helper/a has seen 6"):
        restored.refuse_older(6, "helper/a")
    restored.close()


def test_a_counter_that_is_gone_damaged_or_of_another_key_is_refused(tmp_path):
    Masks(tmp_path / "a").close()
    Masks(tmp_path / "b").close()
    (tmp_path / "a" / NEXT_FILE).write_bytes((tmp_path / "b" / NEXT_FILE).read_bytes())
    with pytest.raises(RefusedError, match="another key"):
        Masks(tmp_path / "a")
    (tmp_path / "a" / NEXT_FILE).write_bytes(b"")
    with pytest.raises(RefusedError, match="damaged"):
        Masks(tmp_path / "a")
    (tmp_path / "a" / NEXT_FILE).unlink()
    with pytest.raises(RefusedError, match="gone"):
        Masks(tmp_path / "a")
    (tmp_path / "b" / KEY_FILE).write_bytes(b"short")
    with pytest.raises(InputError, match="damaged"):
        Masks(tmp_path / "b")
    (tmp_path / "b" / KEY_FILE).unlink()
    with pytest.raises(InputError, match="missing"):
        Masks(tmp_path / "b")


def test_one_process_has_the_folder_and_only_given_numbers_have_masks(tmp_path):
    masks = Masks(tmp_path)
    with pytest.raises(RefusedError, match="another process"):
        Masks(tmp_path)
    assert masks.next == 0
    assert "next 0" in repr(masks)
    with pytest.raises(RefusedError, match="not given out"):
        masks.mask(0, 0, (3,), FIELD)
    with pytest.raises(InputError, match="1 or more"):
        masks.take(0)
    masks.close()


def test_a_mask_is_the_stream_of_its_number_and_layer(tmp_path):
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    masks = Masks(tmp_path)
    masks.take(9)
    key = (tmp_path / KEY_FILE).read_bytes()
    begin = (7).to_bytes(8, "big") + (3).to_bytes(2, "big") + bytes(6)
    stream = Cipher(algorithms.AES(key), modes.CTR(begin)).encryptor().update(bytes(40))
    assert masks.mask(7, 3, (2, 5), WORDS).flatten().tolist() == np.frombuffer(stream, "<u4").tolist()
    others = [masks.mask(number, layer, (10,), WORDS) for number in (6, 7) for layer in (2, 3)]
    assert len({tuple(each.tolist()) for each in others}) == 4
    assert masks.name == hashlib.sha256(b"privet masks" + key).hexdigest()[:16]
    masks.close()


def test_words_above_the_modulus_are_left_out(tmp_path):
    masks, half = Masks(tmp_path), Ring("half", 2**31)
    masks.take(1)
    drawn = masks.mask(0, 0, (1000,), half)
    assert int(drawn.max()) < 2**31
    whole = masks.mask(0, 0, (3000,), WORDS)
    assert torch.equal(drawn, whole[whole < 2**31][:1000])
    masks.close()


@pytest.mark.parametrize("ring", RINGS, ids=str)
@pytest.mark.parametrize("error", [1, 2**31, 2**16, 2**31 + 2**30])
def test_an_answer_passes_and_a_planted_error_does_not(ring, error):
    kernels = [
        Kernel(torch.randint(-500, 500, (6, 2, 3, 3)).double(), (1, 1), (1, 1)),
        Kernel(torch.randint(-500, 500, (6, 20)).double()),
    ]
    for kernel, shape in zip(kernels, [(2, 5, 5), (20,)], strict=True):
        check = check_of(kernel, ring)
        sent = torch.randint(0, ring.modulus, (3, *shape))
        answer = ring.reduced(kernel(ring.centred(sent)))
        assert check.holds(sent, answer)
        wrong = answer.clone()
        wrong[1, 4] = ring.reduced(wrong[1, 4] + error)
        assert not check.holds(sent, wrong)
        assert "secret" not in repr(check)


@pytest.mark.parametrize(("ring", "rows", "high"), [(FIELD, 1, 8), (WORDS, 3, 2)])
def test_a_lie_passes_as_rarely_as_the_bound_says(ring, rows, high):
    """With few random bits in place of 24, so that lies that pass can be counted: 1 of 8, for the worst error."""
    kernel = Kernel(torch.zeros(4, 5, dtype=torch.float64))
    sent, passed, tries = torch.zeros(1, 5, dtype=torch.int64), 0, 4000
    answer = torch.zeros(1, 4, dtype=torch.int64)
    answer[0, 2] = 2**31
    drawn = torch.from_numpy(seeded(3).integers(high, tries * rows * 4).copy()).reshape(tries, rows, 4)
    digits = Kernel(torch.zeros(4 * rows, 5, dtype=torch.float64))
    for secret in drawn:
        passed += Check(ring, secret, digits).holds(sent, answer)
    expected = tries / 8
    assert abs(passed - expected) < 5 * expected**0.5
    secret = check_of(kernel, ring).secret
    assert secret.shape == ((1, 4) if ring == FIELD else (24, 4))
    assert int(secret.max()) >= (2**8 if ring == FIELD else 1)


def test_a_single_random_row_modulo_2_32_would_let_half_of_the_worst_lies_pass():
    """Why the default ring is a field: every even number takes 2^31 to 0."""
    secret = torch.from_numpy(seeded(4).integers(2**24, 4000).copy())
    assert 0.45 < float((WORDS.reduced(secret * 2**31) == 0).double().mean()) < 0.55
    assert float((FIELD.reduced(secret * 2**31) == 0).double().mean()) < 0.01


@pytest.mark.parametrize("ring", RINGS, ids=str)
def test_a_check_is_exact_at_the_widest_layer(ring):
    kernel = Kernel(torch.randint(-60, 61, (3, fixed_point.FAN_IN)).double())
    sent = torch.randint(ring.modulus - 5, ring.modulus, (2, fixed_point.FAN_IN))
    sent[0] = ring.half
    assert check_of(kernel, ring).holds(sent, ring.reduced(kernel(ring.centred(sent))))


def sealed_messages(network, images, masks, ring=FIELD):
    """Returns all that helpers receive, by layer."""
    blinded, seen = Blinded(network, ring), {}

    def multiply(number, sealed, first):
        seen[number] = sealed
        return blinded.evaluate(number, sealed)

    blinded.run(images, blinded.prepare(masks, len(images)), masks, multiply)
    return seen


def chi_square(counts):
    expected = counts.sum() / len(counts)
    return chi2.sf(float(((counts - expected) ** 2 / expected).sum()), len(counts) - 1)


@pytest.mark.parametrize("ring", RINGS, ids=str)
def test_what_helpers_receive_is_uniform_byte_by_byte_even_for_one_image_many_times(masks, ring):
    network = paper_network("lenet")
    image = torch.rand(1, 1, 28, 28).repeat(60, 1, 1, 1)
    seen = torch.cat([each.flatten() for each in sealed_messages(network, image, masks, ring).values()])
    data = seen.numpy().astype("<u4").view(np.uint8).reshape(-1, 4)
    assert len(data) > 100_000
    for place in range(4):
        assert chi_square(np.bincount(data[:, place], minlength=256)) > 1e-4
    pairs = (data[:-1, 3] >> 4) * 16 + (data[1:, 3] >> 4)
    assert chi_square(np.bincount(pairs, minlength=256)) > 1e-4


def test_without_masks_the_same_test_fails(masks):
    layer = fixed(paper_network("lenet").layers[0])
    whole, _ = layer.quantised(torch.rand(60, 1, 28, 28), FIELD)
    data = FIELD.reduced(whole).numpy().astype("<u4").view(np.uint8).reshape(-1, 4)
    assert chi_square(np.bincount(data[:, 3], minlength=256)) < 1e-12


def learned(inputs, targets, outputs, steps=100):
    """Returns a small network fitted to tell targets from inputs: an attacker's."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].numel(), 64), nn.ReLU(), nn.Linear(64, outputs))
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    for step in range(steps):
        rows = torch.arange(step * 50, step * 50 + 50) % len(inputs)
        optimiser.zero_grad()
        made = net(inputs[rows])
        if targets.ndim == 1:
            nn.functional.cross_entropy(made, targets[rows]).backward()
        else:
            (made.sigmoid() - targets[rows].flatten(1)).square().mean().backward()
        optimiser.step()
    return net


@pytest.mark.parametrize("blind", [True, False])
def test_a_learned_inversion_gets_no_further_than_a_guess_from_what_all_helpers_saw(masks, blind):
    """And, by the same attacker, nearly all of it where nothing is masked: a test that can fail."""
    data = Mnist10k().load()
    images, labels = torch.from_numpy(data.train_inputs[:1700]), torch.from_numpy(data.train_labels[:1700])
    network = paper_network("lenet")
    if blind:
        seen = sealed_messages(network, images, masks)
        received = torch.cat([(FIELD.centred(each) / 2**31).flatten(1) for each in seen.values()], 1).float()
    else:
        received = images.flatten(1)
    inverse = learned(received[:700], images[:700], 784)
    guessed = inverse(received[700:]).sigmoid().detach().reshape(-1, 1, 28, 28)
    mean = images[:700].mean(0, keepdim=True).expand(1000, -1, -1, -1)
    floor = max(float(ssim(guess, images[700:]).mean()) for guess in (mean, torch.zeros_like(mean)))
    found = float(ssim(guessed, images[700:]).mean())
    told = learned(received[:700], labels[:700], 10)(received[700:]).argmax(1)
    accuracy = float((told == labels[700:]).double().mean())
    chance = float(labels.bincount().max() / len(labels))
    assert (found <= floor + 0.02) is blind, (found, floor)
    assert (accuracy <= chance + 0.02) is blind, (accuracy, chance)


def test_vgg16_on_eight_small_computers_beats_one_and_lenet_does_not():
    pi, fast = Site(560e6, 72.2e6), Site(560e6, 1e9)
    network = paper_network("vgg16", weights=False)
    slow = estimate(network, pi, [pi] * 8, checked=False)
    assert slow.local == pytest.approx(9.04, abs=0.01)
    assert slow.seconds == pytest.approx(3.97, abs=0.01)
    checked = estimate(network, pi, [pi] * 8)
    assert slow.seconds < checked.seconds < 4.2
    assert estimate(network, fast, [fast] * 8, checked=False).seconds == pytest.approx(1.37, abs=0.01)
    assert estimate(network, pi, [pi] * 8, multicast=False).seconds == pytest.approx(7.7, abs=0.1)
    lenet = paper_network("lenet", weights=False)
    assert here(lenet, pi, [pi] * 8) == (0, 1, 2, 3, 4)
    assert estimate(lenet, pi, [pi] * 8).seconds == estimate(lenet, pi, [pi] * 8).local
    assert 0 in slow.at_source
