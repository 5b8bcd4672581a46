"""A generation is whole or not there, whatever happens while it is made."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from analytics_assets.activation.generations import Channel, Generation

DAY, NEXT, LATER = date(2026, 3, 3), date(2026, 3, 4), date(2026, 3, 5)


@pytest.fixture
def channel(tmp_path: Path) -> Channel:
    return Channel(tmp_path / "out", days_kept=2)


def make(channel: Channel, day: date, text: str, **circumstances: str) -> Generation:
    with channel.building() as folder:
        (folder / "list.csv").write_text(text)
        return channel.seal(folder, day, {"list.csv": 1}, {"campaign": "x"}, circumstances)


def test_equal_content_is_the_same_generation_and_its_manifest_stays(channel: Channel) -> None:
    first, again, other = (make(channel, DAY, text, run_id=run) for text, run in (("a", "1"), ("a", "2"), ("b", "3")))
    assert first.name == again.name != other.name
    assert again.manifest["run_id"] == "1"


def test_a_damaged_generation_is_replaced_by_an_equal_one(channel: Channel) -> None:
    channel.show(make(channel, DAY, "a"))
    with open(channel.root / DAY.isoformat() / "list.csv", "a") as file:
        file.write("more")
    assert channel.newest().damaged_files() == ["list.csv"]
    channel.show(make(channel, DAY, "a", run_id="2"))
    assert channel.newest().damaged_files() == [] and channel.newest().manifest["run_id"] == "2"
    make(channel, NEXT, "b")
    assert {folder.name[:10] for folder in (channel.root / "generations").iterdir()} == {DAY.isoformat(), NEXT.isoformat()}


def test_nothing_shows_before_it_is_shown(channel: Channel) -> None:
    generation = make(channel, DAY, "a")
    assert channel.generation(DAY) is None and channel.newest() is None
    channel.show(generation)
    assert channel.newest().name == generation.name


def test_a_remade_day_is_switched_and_the_replaced_folder_outlives_the_switch(channel: Channel) -> None:
    channel.show(make(channel, DAY, "a"))
    opened = (channel.root / DAY.isoformat()).resolve() / "list.csv"
    channel.show(make(channel, DAY, "b"))
    assert (channel.root / DAY.isoformat() / "list.csv").read_text() == "b" and opened.read_text() == "a"
    channel.show(make(channel, NEXT, "c"))
    assert not opened.exists()


def test_the_newest_days_are_kept(channel: Channel) -> None:
    for day in (DAY, NEXT, LATER):
        channel.show(make(channel, day, "a"))
    assert channel.days() == [NEXT, LATER]
    assert len(list((channel.root / "generations").iterdir())) == 2


def test_current_moves_forward_only(channel: Channel) -> None:
    for day, text, leads_to in ((NEXT, "a", NEXT), (DAY, "b", NEXT), (NEXT, "c", NEXT), (LATER, "d", LATER)):
        generation = make(channel, day, text)
        channel.show_as_current(generation)
        assert (channel.root / "current").resolve().name.startswith(leads_to.isoformat())
    assert (channel.root / "current" / "list.csv").read_text() == "d"


def test_a_changed_or_missing_file_is_named(channel: Channel) -> None:
    generation = make(channel, DAY, "a")
    assert generation.damaged_files() == []
    (generation.folder / "list.csv").write_text("b")
    assert generation.damaged_files() == ["list.csv"]
    (generation.folder / "list.csv").unlink()
    assert generation.damaged_files() == ["list.csv"]


KILLED = """
import os, signal, sys
from datetime import date
from pathlib import Path
from analytics_assets.activation.generations import Channel
if sys.argv[2] == "before the name":
    Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "before the link":
    Path.symlink_to = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "before the switch":
    Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
channel = Channel(Path(sys.argv[1]), 2)
with channel.building() as folder:
    (folder / "list.csv").write_text("half")
    generation = channel.seal(folder, date(2026, 3, 3), {"list.csv": 1}, {"campaign": "x"}, {})
channel.show(generation)
"""


@pytest.mark.parametrize("moment", ["before the name", "before the link", "before the switch"])
def test_killed_at_any_moment_the_last_generation_stands_and_the_next_attempt_clears_up(channel: Channel, moment: str) -> None:
    good = make(channel, DAY, "good")
    channel.show(good)
    done = subprocess.run([sys.executable, "-c", KILLED, str(channel.root), moment], cwd=Path(__file__).parents[2])
    assert done.returncode == -9
    assert channel.newest().name == good.name and good.damaged_files() == []
    channel.show(make(channel, NEXT, "next"))
    assert (channel.root / NEXT.isoformat() / "list.csv").read_text() == "next"
    assert sorted(path.name[:10] for path in (channel.root / "generations").iterdir()) == ["2026-03-03", "2026-03-04"]


def test_a_failed_attempt_leaves_no_folder(channel: Channel) -> None:
    with pytest.raises(OSError, match="full"), channel.building() as folder:
        (folder / "list.csv").write_text("a")
        raise OSError("full")
    assert list((channel.root / "generations").iterdir()) == []


def test_status_has_its_state_since_the_state_began(channel: Channel) -> None:
    channel.show(make(channel, DAY, "a"))
    assert channel.write_status(DAY, DAY, DAY)["state"] == "current"
    old = channel.write_status(LATER, LATER)
    assert (old["state"], old["age_in_days"]) == ("old", 2)
    held = channel.write_status(LATER, LATER, LATER, ["late"])
    began = "2026-03-05T06:00:00+00:00"
    (channel.root / "status.json").write_text(json.dumps(held | {"since": began}))
    again = channel.write_status(LATER, LATER)
    assert (again["state"], again["reasons"], again["since"]) == ("held", ["late"], began)
    other = channel.write_status(LATER, LATER, LATER, ["stale"])
    assert (other["reasons"], other["since"]) == (["stale"], began), "for another reason it is held all the same"
    channel.show(make(channel, LATER, "b"))
    out = channel.write_status(LATER, LATER, LATER)
    assert out["state"] == "current" and out["since"] != began


def test_a_hold_of_a_day_that_is_not_over_after_all_counts_no_longer(channel: Channel) -> None:
    """`last_day` was set too late, the day was held, and the setting was put back."""
    channel.show(make(channel, DAY, "a"))
    assert channel.write_status(LATER, LATER, LATER, ["stale"])["state"] == "held"
    assert channel.write_status(DAY, DAY)["state"] == "current"
    channel.write_status(LATER, LATER, LATER, ["stale"])
    assert channel.write_status(DAY, DAY, DAY)["reasons"] == []


def test_a_hold_stands_from_the_end_of_its_day_on_though_it_is_not_due(channel: Channel) -> None:
    channel.show(make(channel, DAY, "a"))
    channel.write_status(DAY, NEXT, NEXT, ["late"])
    assert channel.write_status(DAY, NEXT)["reasons"] == ["late"]


def test_status_of_nothing(channel: Channel) -> None:
    status = channel.write_status(DAY, DAY, DAY, ["no input"])
    assert (status["state"], status["last_good_day"], status["age_in_days"]) == ("held", None, None)
