"""`python -W ignore -m analytics_assets_tests.kills FOLDER`: kill -9 at every change of files that the small scenarios make.

`--kills N` kills at N changes of each, of as many kinds as there are, `--seed` at others; `--large` takes whole runs too, `--of NAME`
only some. Each kill starts from the same home. Afterwards readers must see of everything what it was or what it becomes, whole; then the work is
done again, and the home must be that of undisturbed work. Says what it found, and ends with 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import sys
from collections import defaultdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

from analytics_assets_tests.kills.killing import apart, run_and_kill
from analytics_assets_tests.kills.scenarios import LARGE, SMALL, Scenario


def copied(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
    return target


def torn(found: dict[str, Any], before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What readers would see that was neither before nor is after."""
    seen = {key for key in (*found, *before, *after) if key.startswith("shown")}
    return [
        f"{key}: {found.get(key)} is neither {before.get(key)} nor {after.get(key)}"
        for key in sorted(seen)
        if found.get(key) not in (before.get(key), after.get(key))
    ]


def differing(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What is not as it should be."""
    return [
        f"{key}: {found.get(key)} instead of {wanted.get(key)}"
        for key in sorted({*found, *wanted})
        if found.get(key) != wanted.get(key)
    ]


def aimed(changes: list[str], kills: int, chance: random.Random) -> list[int]:
    """Numbers of changes of as many kinds as there are, by turns: most changes are Dagster writing one more page of its record."""
    kinds: dict[str, list[int]] = defaultdict(list)
    for number, change in enumerate(changes, 1):
        kinds[re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+", "#", change)].append(number)
    turns = [chance.sample(numbers, len(numbers)) for numbers in chance.sample(sorted(kinds.values()), len(kinds))]
    by_turns = [number for turn in zip_longest(*turns) for number in turn if number]
    return sorted(by_turns[:kills])


def kill_all(scenario: Scenario, folder: Path, kills: int | None, seed: int, at: int | None) -> tuple[int, list[str]]:
    """Kill a scenario's work at its changes; how often, and what was wrong."""
    case, start = folder / "case", folder / "start"
    shutil.rmtree(case, ignore_errors=True)
    case.mkdir(parents=True)
    apart(lambda: scenario.due(case) and None)
    before = apart(lambda: scenario.state(case))
    copied(case, start)
    undisturbed = run_and_kill(lambda: scenario.work(case), case, None)
    if undisturbed.error:
        raise RuntimeError(undisturbed.error)
    after = apart(lambda: scenario.state(case))
    if after == before and scenario.name != "compaction":
        raise RuntimeError(f"{scenario.name} changes nothing")
    changes = undisturbed.changes
    numbers = [at] if at else aimed(changes, kills or len(changes), random.Random(seed))
    print(f"{scenario.name}: {len(changes)} changes, {len(numbers)} kills", flush=True)
    wrong: list[str] = []
    for number in numbers:
        copied(start, case)
        ended = run_and_kill(lambda: scenario.work(case), case, number)
        problems = [f"not killed: {ended.error or 'fewer changes than undisturbed'}"] if not ended.killed else []
        try:
            problems += [f"torn: {one}" for one in torn(apart(lambda: scenario.state(case)), before, after)]
        except RuntimeError as error:
            problems.append(f"cannot be read: {error}")
        try:
            apart(lambda: (scenario.heal or scenario.work)(case) and None)
            problems += [f"not healed: {one}" for one in differing(apart(lambda: scenario.state(case)), after)]
        except RuntimeError as error:
            problems.append(f"does not heal: {error}")
        where = f"{scenario.name} {number}, before {ended.changes[-1] if ended.changes else 'anything'}"
        if problems or scenario.large:
            print(f"  {where}: {'; '.join(problems) or 'fine'}", flush=True)
        wrong += [f"{where}: {problem}" for problem in problems]
    return len(numbers), wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="kills", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, help="how many of each piece of work; all where it is not said")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of changes")
    parser.add_argument("--of", action="append", help="only this piece of work; may be repeated")
    parser.add_argument("--large", action="store_true", help="whole runs too")
    parser.add_argument("--at", type=int, help="only before this change")
    arguments = parser.parse_args()
    count, wrong = 0, []
    for scenario in [*SMALL, *LARGE]:
        if scenario.name in arguments.of if arguments.of else arguments.large or not scenario.large:
            killed, found = kill_all(scenario, arguments.folder.resolve(), arguments.kills, arguments.seed, arguments.at)
            count, wrong = count + killed, wrong + found
    print("\n".join([*wrong, f"{count} kills, {len(wrong)} wrong"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
