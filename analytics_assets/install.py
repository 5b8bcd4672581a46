"""Sets up the virtual environment with nothing but the standard library; safe when two start at once.

`python3 analytics_assets/install.py [--dev | --postgres]` makes `.venv` beside the project from the lock file, with hashes
checked, and does nothing when that has been done for this lock file.
"""

import fcntl
import hashlib
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
OLDEST = (3, 11)


def install(lock: str) -> None:
    """Bring `.venv` up to the packages of one lock file."""
    if sys.version_info < OLDEST:
        sys.exit(
            f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed; this is {sys.version.split()[0]}. Try `make PYTHON=python3.12 …`."
        )
    with open(ROOT / ".venv.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        wanted = hashlib.sha256((ROOT / lock).read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
        done = ENVIRONMENT / f".{lock}.installed"
        if done.exists() and done.read_text() == wanted:
            return
        print(f"setting up .venv from {lock} (once; a minute or two)", flush=True)
        if not (ENVIRONMENT / "bin" / "python").exists():
            venv.create(ENVIRONMENT, with_pip=True, clear=ENVIRONMENT.exists())
        pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        # The lock file names everything, so nothing is left to resolve.
        subprocess.run([*pip, "--no-deps", "--require-hashes", "-r", str(ROOT / lock)], check=True)
        subprocess.run([*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT)], check=True)
        done.write_text(wanted)


if __name__ == "__main__":
    kind = next((f"-{kind}" for kind in ("dev", "postgres") if f"--{kind}" in sys.argv), "")
    install(f"requirements{kind}.lock")
