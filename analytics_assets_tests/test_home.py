"""A home holds one company's export, remembers it whole or not at all, and locks out only its own processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from analytics_assets.events.loading import export_folder, pin_export
from analytics_assets.home import Contents, Home, HomeError
from analytics_assets.settings import parse_settings

BUSINESS = '[business]\ntime_zone = "Europe/London"\ncurrency = "GBP"\n'


def test_another_export_in_the_same_home_is_refused_and_changes_nothing(tmp_path) -> None:
    home = Home(tmp_path / "home")
    pin_export(home, tmp_path / "acme", "kissmetrics")
    before = (home.root / "home.json").read_text()
    with pytest.raises(HomeError) as error:
        pin_export(home, tmp_path / "other", "kissmetrics")
    for part in (str(home.root), str(tmp_path / "acme"), str(tmp_path / "other"), "ANALYTICS_HOME", "home.json"):
        assert part in str(error.value)
    assert (home.root / "home.json").read_text() == before


def test_the_same_export_again_is_welcome(tmp_path) -> None:
    home = Home(tmp_path)
    pin_export(home, tmp_path / "acme", "kissmetrics")
    home.remember(first_day="2011-10-29")
    assert pin_export(home, tmp_path / "acme", "kissmetrics").first_day == "2011-10-29"


def test_two_homes_hold_two_companies(tmp_path) -> None:
    one, two = Home(tmp_path / "one"), Home(tmp_path / "two")
    pin_export(one, tmp_path / "acme", "kissmetrics")
    pin_export(two, tmp_path / "other", "kissmetrics")
    assert one.contents().exports == str(tmp_path / "acme")
    assert two.contents().exports == str(tmp_path / "other")
    paths = {getattr(home, name) for home in (one, two) for name in ("lake", "database", "published", "dagster", "simulation")}
    assert len(paths) == 10


def test_the_environment_names_the_home(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ANALYTICS_HOME", str(tmp_path / "there"))
    assert Home.from_environment().root == tmp_path / "there"


def test_an_empty_home_holds_nothing_and_asking_creates_nothing(tmp_path) -> None:
    home = Home(tmp_path / "home")
    assert home.contents() == Contents()
    assert not home.root.exists()


def test_without_an_export_the_message_says_how_to_name_one(tmp_path) -> None:
    with pytest.raises(HomeError, match=r"make run EXPORTS=.*\[exports\]"):
        export_folder(parse_settings(BUSINESS, "x"), Home(tmp_path))


def test_the_pinned_export_wins_over_the_settings(tmp_path) -> None:
    settings = parse_settings(BUSINESS + f'[exports]\nfolder = "{tmp_path / "configured"}"\n', "x")
    home = Home(tmp_path / "home")
    assert export_folder(settings, home) == (tmp_path / "configured", "kissmetrics")
    pin_export(home, tmp_path / "pinned", "kissmetrics")
    assert export_folder(settings, home) == (tmp_path / "pinned", "kissmetrics")


def test_a_damaged_memory_is_told_with_its_file(tmp_path) -> None:
    (tmp_path / "home.json").write_text('{"exports": ')
    with pytest.raises(HomeError, match="home.json is damaged"):
        Home(tmp_path).contents()
    (tmp_path / "home.json").write_text("[1]")
    with pytest.raises(HomeError, match="home.json is damaged"):
        Home(tmp_path).contents()


def test_what_a_newer_version_remembers_is_refused_and_kept(tmp_path) -> None:
    written = '{"first_day": "2011-10-29", "unheard_of": 1}'
    (tmp_path / "home.json").write_text(written)
    for use in (Home(tmp_path).contents, lambda: Home(tmp_path).remember(first_day="2020-01-01")):
        with pytest.raises(HomeError, match="home.json was written by a newer version .*: unheard_of is unknown"):
            use()
    assert (tmp_path / "home.json").read_text() == written


def test_a_write_that_fails_half_way_leaves_the_old_memory(tmp_path, monkeypatch) -> None:
    home = Home(tmp_path)
    home.remember(first_day="2011-10-29")

    def disk_full(path: Path, text: str, *args, **kwargs) -> int:
        with open(path, "w") as file:
            file.write(text[:5])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", disk_full)
    with pytest.raises(OSError, match="disk full"):
        home.remember(first_day="2020-01-01")
    assert home.contents().first_day == "2011-10-29"


def test_processes_that_remember_different_things_at_once_lose_none(tmp_path) -> None:
    source = _program("home.remember", tmp_path)
    writers = [subprocess.Popen([sys.executable, "-c", source, name]) for name in ("exports", "first_day", "format")]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert json.loads((tmp_path / "home.json").read_text()) | {"built_with": None} == {
        "exports": "19", "first_day": "19", "format": "19", "built_with": None,
    }  # fmt: skip


def _program(what: str, root: Path) -> str:
    return (
        "import sys; from pathlib import Path; from analytics_assets.home import Home\n"
        f"home = Home(Path({str(root)!r}))\n"
        f"for number in range(20): {what}(**{{sys.argv[1]: str(number)}})\n"
    )


def test_a_lock_makes_another_process_wait_and_say_so_and_death_frees_it(tmp_path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys; from pathlib import Path; from analytics_assets.home import Home\n"
         f"with Home(Path({str(tmp_path)!r})).lock('load'):\n    print('held', flush=True); sys.stdin.read()"],
        stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    waited = []

    def waiting() -> None:
        waited.append(holder.poll())
        holder.kill()

    with Home(tmp_path).lock("load", waiting):
        pass
    holder.wait()
    assert waited == [None], "the lock was free while its holder lived"


def test_locks_of_other_names_and_other_homes_are_free(tmp_path) -> None:
    with (
        Home(tmp_path / "one").lock("load"),
        Home(tmp_path / "one").lock("home"),
        Home(tmp_path / "two").lock("load", pytest.fail),
    ):
        pass


def test_a_path_that_delta_would_read_as_another_is_refused(tmp_path, monkeypatch) -> None:
    for name in ("100%", "a b", "50%zz"):
        monkeypatch.setenv("ANALYTICS_HOME", str(tmp_path / name))
        assert Home.from_environment().root == tmp_path / name
    monkeypatch.setenv("ANALYTICS_HOME", str(tmp_path / "a%20b"))
    with pytest.raises(HomeError, match="a%20b cannot hold tables: %20 in a path is read as another character"):
        Home.from_environment()
