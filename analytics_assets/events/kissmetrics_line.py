"""One line of a KISSmetrics export: to a record, or to the reason why it is none.

This module says what a line means, in plain Python and one line at a time. `kissmetrics.py` reads ordinary lines in
bulk, with the same result, and hands every other line to `parse` (the tests hold the two against each other).

Lines are mended only when strict JSON refuses them. What real exports hold is described by the readers that met it:
non-ASCII text as octal escapes of its UTF-8 bytes (`\\303\\241`), an octal quote (`\\042`), `\\'`, bytes of Latin-1.
"""

import codecs
import hashlib
import json
import re
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Any, NoReturn

END_OF_TIME = 253_402_300_800  # the first second of the year 10000
ESCAPES = re.compile(rb"""\\(?:([0-3][0-7]{2})|(u[0-9a-fA-F]{4}|["\\/bfnrt])|('))?""")
CONTROL_ESCAPES = re.compile(r"(\\\\)|\\u00([01][0-9a-f])")
SECONDS = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?")


class Unreadable(Exception):
    """A line that is no record. The message is the reason, a short sentence that is the same for all such lines."""


@dataclass(frozen=True, slots=True)
class Record:
    """What one line says: an event, a property set, or an alias.

    `occurred_at` is in microseconds since 1970, UTC. `properties` and `system` are canonical JSON objects as text;
    `system` holds the keys that begin with an underscore and have no column of their own, None when there are none.
    """

    kind: str
    record_id: str
    identity: str
    other_identity: str | None
    name: str | None
    occurred_at: int
    properties: str
    system: str | None


class Number(str):
    """A JSON number as it stands in the line: `1.10` stays `1.10`."""

    __slots__ = ()


def event_name(text: str) -> str:
    """The name as names are compared: lower case, `,` and `:` read as spaces, of which the number does not count."""
    return " ".join(text.replace(",", " ").replace(":", " ").lower().split())


def property_name(text: str) -> str:
    """The key as names are compared: lower case, the number of spaces aside. `Order  ID` and `order id` are one property."""
    return " ".join(text.lower().split())


def json_text(text: str) -> str:
    """A string as JSON, spelt as DuckDB spells it: raw non-ASCII, upper-case digits in `\\u001F`."""
    quoted = encode_basestring(text)
    if "\\u00" in quoted:
        return CONTROL_ESCAPES.sub(_upper_case, quoted)
    return quoted


def _upper_case(found: re.Match[str]) -> str:
    return found[1] or "\\u00" + found[2].upper()


def parse(line: bytes) -> Record:
    """Read one line (without its line end).

    A record needs an identity and a time. The rules for what is odd but valid:

    - Keys are compared without letter case and the number of spaces; of two that are the same the last one counts.
    - null is the same as absent. Numbers, true and false are their text; nested values are their JSON text.
    - A line with `_p2` is an alias, also when it has a name (which is kept). Without a name, a null `_p2` is an alias
      that lacks its second identity. A blank name makes a property set.
    - Where `_c` says that a phone wrote the time, `_server_timestamp` is the time, and `_t` stays in `system`.
    - The time is a number of seconds or the text of one; fractions are cut off below a microsecond.
    - NUL and lone surrogates become U+FFFD: no database or file format downstream takes them all.

    Raises:
        Unreadable: the line is no record; the message is the reason.
    """
    keys: dict[str, Any] = {}
    for key, value in _object(line):
        keys[_canonical(key)] = value

    identity = _scalar(keys.pop("_p", None))
    if identity is None or not identity.strip():
        raise Unreadable("no identity (_p)")
    name = _scalar(keys.pop("_n", None))
    name = event_name(name) or None if name is not None else None

    kind = "set" if name is None else "event"
    other_identity = None
    if "_p2" in keys:
        second = keys.pop("_p2")
        if second is not None or name is None:
            kind = "alias"
            other_identity = _scalar(second)
            if other_identity is None or not other_identity.strip():
                raise Unreadable("alias without a second identity (_p2)")

    occurred_at = None
    if "_c" in keys and keys.get("_server_timestamp") is not None:
        try:
            occurred_at = _microseconds(keys["_server_timestamp"])
        except Unreadable:
            occurred_at = None
    if occurred_at is None:
        if keys.get("_t") is None:
            raise Unreadable("no time (_t)")
        occurred_at = _microseconds(keys.pop("_t"))

    properties: list[str] = []
    system: list[str] = []
    for key in sorted(keys):
        value = keys[key]
        if value is not None:
            text = value if type(value) is str else _value_text(value)
            (system if key.startswith("_") else properties).append(_label(key) + json_text(_text(text)))
    properties_text = "{" + ",".join(properties) + "}"
    return Record(
        kind=kind,
        record_id=_record_id(kind, identity, other_identity, name, occurred_at, properties_text),
        identity=identity,
        other_identity=other_identity,
        name=name,
        occurred_at=occurred_at,
        properties=properties_text,
        system="{" + ",".join(system) + "}" if system else None,
    )


# An export has few keys, and each stands in very many lines.
@lru_cache(maxsize=10_000)
def _canonical(key: str) -> str:
    return property_name(_text(key))


@lru_cache(maxsize=10_000)
def _label(key: str) -> str:
    return json_text(key) + ":"


def _record_id(
    kind: str,
    identity: str,
    other_identity: str | None,
    name: str | None,
    occurred_at: int,
    properties: str,
) -> str:
    """The same for every repetition of a record. JSON texts hold no raw line end, so the parts cannot run together."""
    parts = (
        kind,
        json_text(identity),
        "" if other_identity is None else json_text(other_identity),
        "" if name is None else json_text(name),
        str(occurred_at),
        properties,
    )
    return hashlib.md5("\n".join(parts).encode(), usedforsecurity=False).hexdigest()


def _object(line: bytes) -> tuple[tuple[str, Any], ...]:
    """The pairs of the JSON object that the line is, mended if need be."""
    line = line.removeprefix(codecs.BOM_UTF8)
    if not line.strip():
        raise Unreadable("blank line")
    is_utf8 = True
    try:
        text = line.decode()
    except UnicodeDecodeError:
        is_utf8 = False
        text = line.decode(errors="kissmetrics-latin-1")
    try:
        try:
            value = _decoded(STRICT, text)
        except ValueError:
            value = _decoded(LENIENT, ESCAPES.sub(_valid_escape, line).decode(errors="kissmetrics-latin-1"))
    except ValueError as error:
        if not is_utf8:
            raise Unreadable("not UTF-8 text and not mendable") from None
        message = error.msg.removesuffix(" at") if isinstance(error, json.JSONDecodeError) else str(error)
        raise Unreadable(f"not valid JSON: {message}") from None
    except RecursionError:
        raise Unreadable("not valid JSON: nested too deeply") from None
    if not isinstance(value, tuple):
        raise Unreadable("not a JSON object")
    return value


def _decoded(decoder: json.JSONDecoder, text: str) -> Any:
    """What `decoder.decode` gives, which looks for white space with two regular expressions and takes twice as long."""
    text = text.strip(" \t\r\n")
    value, end = decoder.raw_decode(text)
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def _valid_escape(found: re.Match[bytes]) -> bytes:
    """What strict JSON, or the bytes of the text itself, have for an escape.

    An unknown escape is read as the backslash that someone forgot to escape, as in a Windows path.
    """
    octal, valid, apostrophe = found.groups()
    if octal:
        byte = int(octal, 8)
        if byte in b'"\\':
            return b"\\" + bytes([byte])
        return b"\\u%04x" % byte if byte < 0x20 else bytes([byte])
    if valid:
        return found[0]
    return b"'" if apostrophe else b"\\\\"


def _latin_1(error: UnicodeError) -> tuple[str, int]:
    """Read the bytes that are no UTF-8 as Latin-1, and only those."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("latin-1"), error.end


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")


codecs.register_error("kissmetrics-latin-1", _latin_1)
AS_WRITTEN: dict[str, Any] = {
    "object_pairs_hook": tuple,
    "parse_int": Number,
    "parse_float": Number,
    "parse_constant": _not_json,
}
STRICT = json.JSONDecoder(**AS_WRITTEN)
LENIENT = json.JSONDecoder(**AS_WRITTEN, strict=False)  # takes raw tabs and such in strings


def _text(text: str) -> str:
    """Without what cannot be stored: NUL, and halves of surrogate pairs."""
    text = text.replace("\0", "\ufffd")
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _scalar(value: Any) -> str | None:
    """A string or number as text; None for null and for what cannot be an identity or a name."""
    return _text(str(value)) if isinstance(value, str) else None


def _value_text(value: Any) -> str:
    """A property's value as text: numbers as they stand, nested values as JSON."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return _nested_text(value)


def _nested_text(value: Any) -> str:
    if isinstance(value, tuple):
        return "{" + ",".join(f"{json_text(key)}:{_nested_text(inner)}" for key, inner in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_nested_text, value)) + "]"
    if value is None:
        return "null"
    return json_text(value) if type(value) is str else _value_text(value)


def _microseconds(value: Any) -> int:
    """Seconds since 1970, a number or its text, as microseconds."""
    text = value.strip() if isinstance(value, str) else ""
    if text.isascii() and text.isdigit() and len(text) <= 11:
        return int(text) * 1_000_000
    if not SECONDS.fullmatch(text):
        raise Unreadable("time (_t) is not a number of seconds")
    seconds = Decimal(text)
    if not 0 <= seconds < END_OF_TIME:
        raise Unreadable("time (_t) is out of range")
    return int((seconds * 1_000_000).to_integral_value(ROUND_FLOOR))
