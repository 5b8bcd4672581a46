"""Endpoints for alerts that misbehave as real ones do, and what each of them was sent; they listen on loopback."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# A line of a message: the alert's number, and whether it says that the alert is over, or that it has been.
NEWS = re.compile(r"^#(\d+) (?:(recovered)|(?:WARNING|ERROR)[^:]*?(, over by now)?:)", re.MULTILINE)
LEFT_OUT = re.compile(r"^and \d+ more: ", re.MULTILINE)
# Longer than the sender waits.
SECONDS_HANGING = 40.0


@dataclass
class Endpoints:
    """Three addresses: `fails` answers 500 to every other request by chance, `hangs` is silent for the first two and then answers, `refuses`
    answers 500 until `mended`.

    `accepted` says of each address when it answered 200 to which piece of news: the alert's number, and `raised` or `recovered`.
    """

    mended: bool = False
    accepted: dict[tuple[str, int, str], list[datetime]] = field(default_factory=lambda: defaultdict(list))
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    left_out: bool = False
    _chance: random.Random = field(default_factory=lambda: random.Random(0))

    def start(self) -> None:
        """Listen, until the process ends."""
        endpoints = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = endpoints.take(self.path.strip("/"), f"{said['message']}")
                if status:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def urls(self) -> str:
        """What the environment variable of the alerts must hold."""
        return " ".join(f"json://127.0.0.1:{self._server.server_port}/{name}" for name in ADDRESSES)

    def take(self, name: str, text: str) -> int | None:
        """Take a message; the status to answer with, None for no answer at all."""
        if name == "hangs" and self.requests[name, 0] < 2:
            self.requests[name, 0] += 1
            time.sleep(SECONDS_HANGING)
            return None
        refused = self._chance.random() < 0.5 if name == "fails" else name == "refuses" and not self.mended
        status = 500 if refused else 200
        self.requests[name, status] += 1
        if status == 200:
            for number, recovered, over in NEWS.findall(text):
                for news in ("recovered",) if recovered else ("raised", "recovered") if over else ("raised",):
                    self.accepted[name, int(number), news].append(datetime.now(UTC))
            self.left_out = self.left_out or bool(LEFT_OUT.search(text))
        return status


ADDRESSES = ("fails", "hangs", "refuses")
