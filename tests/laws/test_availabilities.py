"""Laws of every availability: repeatable, sane, and as often there as it says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from privet import parts
from privet.errors import PartError
from privet.fleet.availability.contract import Availability, Presence
from privet.fleet.availability.diurnal import Diurnal
from privet.fleet.availability.random import Random
from privet.randomness import seeded, system

NAMES = parts.names("availabilities")


def make(name: str) -> Availability:
    return parts.build("availabilities", {"name": name})


def presences(availability: Availability, devices: int = 20, rounds: int = 50, seed: int = 1) -> list[Presence]:
    return [
        availability.presence(f"device-{device:03d}", turn, seeded(seed, device, turn))
        for device in range(devices)
        for turn in range(1, rounds + 1)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_same_stream_same_presence(name: str) -> None:
    assert presences(make(name)) == presences(make(name))


@pytest.mark.parametrize("name", NAMES)
def test_who_is_away_neither_drops_nor_is_late(name: str) -> None:
    seen = presences(make(name))
    assert any(each.here for each in seen)
    for each in seen:
        assert type(each.here) is bool
        assert type(each.drops) is bool
        assert 0 <= each.delay < math.inf
        assert each.here or each == Presence(here=False)


@pytest.mark.parametrize("name", NAMES)
def test_order_of_devices_does_not_matter(name: str) -> None:
    def ask(order: list[int]) -> dict[int, Presence]:
        return {n: make(name).presence(f"device-{n:03d}", 3, seeded(1, n, 3)) for n in order}

    assert ask(list(range(30))) == ask(list(reversed(range(30))))


@pytest.mark.parametrize("name", NAMES)
def test_takes_the_system_source_and_round_trips(name: str) -> None:
    assert isinstance(make(name).presence("device-000", 1, system()), Presence)
    assert parts.build("availabilities", parts.to_table(make(name))) == make(name)


def test_rates_are_kept() -> None:
    seen = presences(Random(participation=0.7, drop_rate=0.2, mean_delay=3), devices=40, rounds=250)
    here = [each for each in seen if each.here]
    assert len(here) / len(seen) == pytest.approx(0.7, abs=0.02)  # 4 standard deviations of 10,000 draws
    assert np.mean([each.drops for each in here]) == pytest.approx(0.2, abs=0.02)
    assert np.mean([each.delay for each in here]) == pytest.approx(3, rel=0.05)


def test_one_field_moves_nothing_else() -> None:
    calm, lossy = (presences(Random(participation=0.7, drop_rate=rate)) for rate in (0, 0.5))
    assert [(each.here, each.delay) for each in calm] == [(each.here, each.delay) for each in lossy]


def test_certain_presence() -> None:
    assert set(presences(Random(participation=1, drop_rate=0, mean_delay=0))) == {Presence()}


def test_no_participation_is_refused() -> None:
    with pytest.raises(PartError, match="participation"):
        Random(participation=0)


def test_the_day_goes_by() -> None:
    day = Diurnal(participation=0.8, dip=0.75, best_hour=2, hours_per_round=6, spread_hours=0)
    assert [day.local_hour("any", turn) for turn in (1, 2, 5)] == [0, 6, 0]
    assert day.probability(2) == pytest.approx(0.8)
    assert day.probability(14) == pytest.approx(0.2)
    assert day.probability(8) == pytest.approx(0.5)


def test_a_device_keeps_its_own_clock() -> None:
    day = Diurnal(spread_hours=6)
    ahead = {f"device-{n:03d}": day.local_hour(f"device-{n:03d}", 1) for n in range(200)}
    assert 0 <= min(ahead.values()) < 0.5
    assert 5.5 < max(ahead.values()) < 6
    for device, hour in ahead.items():
        assert day.local_hour(device, 25) == pytest.approx(hour)


def test_more_answer_at_night() -> None:
    day = Diurnal(best_hour=0, spread_hours=0, hours_per_round=12)
    night, noon = (
        sum(day.presence(f"device-{n}", turn, seeded(1, n, turn)).here for n in range(1000)) for turn in (1, 2)
    )
    assert 3 < night / noon < 5
