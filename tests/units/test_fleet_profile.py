"""Hardware profiles: the shipped ones say what was published, a user's own are checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from privet.errors import PartError
from privet.fleet.profile import Profile, find_profile, profile_names

FORWARD = 28**2 * 30 * 9 + 14**2 * 80 * 270 + 3920 * 32 + 32 * 28 + 28 * 24 + 24 * 16 + 16 * 10
"""Multiplications of the smart-home network for one image."""

OWN = """
name = "sensor"
title = "A sensor"
multiplications_per_second = 1e6
memory_bytes = 1000
link_bits_per_second = 8000
active_watts = 2
radio_watts = 0.5
idle_watts = 0.25
source = "made up"
"""


def own(folder: Path, text: str) -> str:
    (folder / "sensor.toml").write_text(text)
    return str(folder / "sensor.toml")


def test_shipped_profiles_are_whole() -> None:
    assert profile_names() == (
        "edge-server",
        "gateway",
        "lg-nexus-5",
        "phone",
        "raspberry-pi-3",
        "raspberry-pi-4",
        "stm32h7",
    )
    for name in profile_names():
        profile = find_profile(name)
        assert profile.name == name
        assert "Assumptions" in profile.source
        assert profile.active_watts >= profile.idle_watts


@pytest.mark.parametrize(
    ("name", "rate", "memory", "link"),
    [
        ("raspberry-pi-3", 560e6, 2**30, 72.2e6),
        ("lg-nexus-5", 800e6, 2**31, 72.2e6),
        ("stm32h7", 40e6, 2**20, 7.2e6),
    ],
)
def test_published_figures(name: str, rate: float, memory: int, link: float) -> None:
    profile = find_profile(name)
    assert (profile.multiplications_per_second, profile.memory_bytes, profile.link_bits_per_second) == (
        rate,
        memory,
        link,
    )


@pytest.mark.parametrize(("name", "seconds"), [("raspberry-pi-4", 144), ("edge-server", 9)])
def test_derived_rates_give_the_published_epoch(name: str, seconds: float) -> None:
    assert find_profile(name).compute_seconds(6000 * 3 * FORWARD) == pytest.approx(seconds, rel=0.005)


def test_seconds_and_joules_by_hand(tmp_path: Path) -> None:
    sensor = find_profile(own(tmp_path, OWN))
    assert sensor == Profile("sensor", "A sensor", 1e6, 1000, 8000, 2, 0.5, 0.25, "made up")
    assert sensor.compute_seconds(3e6) == 3
    assert sensor.transfer_seconds(2000) == 2
    assert sensor.joules(3, 2) == 7
    assert sensor.joules(3, 2, idle_seconds=4) == 8


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("idle_watts", "idle_wats", "unknown key 'idle_wats'|'idle_watts' is missing"),
        ("idle_watts = 0.25", "", r"'idle_watts' is missing; .*add a line idle_watts = "),
        ("memory_bytes = 1000", "memory_bytes = 0", "memory_bytes: Input should be greater than 0, not 0"),
        ("= 8000", '= "fast"', "link_bits_per_second: Input should be a valid number"),
        ("= 1e6", "= inf", "multiplications_per_second: Input should be a finite number"),
        ("active_watts = 2", "active_watts = -2", "active_watts: Input should be greater than or equal to 0"),
        ('"sensor"', '"My Sensor"', "name: String should match"),
        ('source = "made up"', 'source = "made up', "can't be read as TOML"),
        ('source = "made up"', 'source = "made up"\ncolour = "red"', "unknown key 'colour'"),
    ],
)
def test_own_profile_is_refused_in_one_line(tmp_path: Path, old: str, new: str, line: str) -> None:
    with pytest.raises(PartError, match=line) as caught:
        find_profile(own(tmp_path, OWN.replace(old, new)))
    assert "\n" not in caught.value.advice()


def test_no_such_profile_or_file(tmp_path: Path) -> None:
    with pytest.raises(PartError, match=r"no profile called 'rasberry-pi-4'; .*did you mean 'raspberry-pi-4'"):
        find_profile("rasberry-pi-4")
    with pytest.raises(PartError, match="no profile file"):
        find_profile(str(tmp_path / "none.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(PartError, match="can't be read as TOML"):
        find_profile(str(tmp_path / "bytes.toml"))
