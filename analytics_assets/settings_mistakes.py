"""Mistakes in `analytics.toml`, each told with its file, its line, and what is allowed there."""

import difflib
import re
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def explain(mistake: Any, text: str, source: str, settings: type[BaseModel]) -> str:
    """One mistake that Pydantic found in the text of a settings file, as its owner reads it; `settings` is the declaration."""
    location = tuple(part for part in mistake["loc"] if isinstance(part, str))
    place = next((part for part in mistake["loc"] if isinstance(part, int)), 0)
    where = f"{source}:{_line_of(text, location, place)}"
    name = ".".join(location) or "settings"
    if mistake["type"] == "extra_forbidden":
        allowed = sorted(_declared_at(location[:-1], settings)[1].model_fields)
        near = difflib.get_close_matches(location[-1], allowed, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"{where}: there is no setting {name!r}.{hint} Allowed here: {', '.join(allowed)}."
    if mistake["type"] == "missing" and isinstance(mistake["loc"][-1], str):
        return f"{where}: {name!r} is missing, for example {_EXAMPLES.get(name, location[-1] + ' = …')}"
    field, table = _declared_at(location, settings)
    if field and field.description:
        message = f"should be {field.description}"
    elif mistake["type"] in ("tuple_type", "model_type") and field and str(field.annotation).endswith(f"{table.__name__}, ...]"):
        message = f"should be tables, each under [[{name}]]"
    else:
        message = _SHOULD_BE.get(mistake["type"], mistake["msg"].removeprefix("Value error, ")).format(
            name=name, key=location[-1], **mistake.get("ctx", {})
        )
    found = "" if isinstance(mistake["input"], dict) else f" (found {mistake['input']!r})"
    return f"{where}: {name}: {message}{found}."


_SHOULD_BE = {
    "tuple_type": 'should be a list, such as ["one", "another"]',
    "too_short": 'is empty: should name one at least, such as {key} = ["one"]',
    "string_too_short": "should not hold an empty text",
    "string_type": "should be a text in quotes",
    "literal_error": "should be {expected}",
    "greater_than_equal": "should be {ge:g} or more",
    "greater_than": "should be more than {gt:g}",
    "less_than_equal": "should be {le:g} or less",
    "less_than": "should be less than {lt:g}",
    "model_type": "should be a table: its settings stand below a line [{name}]",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "should be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "should be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "should be true or false"),
    **dict.fromkeys(("time_parsing", "time_type"), 'should be a time in quotes, such as "06:00"'),
    **dict.fromkeys(
        ("date_parsing", "date_type", "date_from_datetime_parsing", "date_from_datetime_inexact"),
        "should be a day, such as 2026-03-31",
    ),
}
"""What a mistake of a type asks for; `{name}` is the setting, `{key}` its name within its table."""
_EXAMPLES = {
    "business": '[business] with time_zone = "Europe/London" and currency = "GBP"',
    "health": "[health.weights] with five weights that sum to 100",
    "business.time_zone": 'time_zone = "Europe/London"',
    "business.currency": 'currency = "GBP"',
    "training_sets.name": 'name = "upgrades"',
    "training_sets.subjects": 'subjects = "accounts"',
    "training_sets.events": 'events = ["subscription upgraded"]',
    "training_sets.horizon_days": "horizon_days = 30",
}


def _declared_at(location: tuple[str, ...], settings: type[BaseModel]) -> tuple[FieldInfo | None, type[BaseModel]]:
    """The declared setting of a name, and the table that it is or stands in."""
    table, field = settings, None
    for part in location:
        field = table.model_fields.get(part)
        inner = field and (get_args(field.annotation)[0] if get_origin(field.annotation) is tuple else field.annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            table = inner
    return field, table


def _line_of(text: str, location: tuple[str, ...], place: int) -> int:
    """The line on which a setting stands; its table's line where the setting itself is absent; else 1.

    `place` counts the tables of one name: the second `[[segments.rules]]` is 1.
    """
    table, best, number_of_table, wanted = "", 1, place, ".".join(location)
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*(\[\[?)([^\[\]]+)\]", line)
        if header:
            number_of_table = number_of_table + 1 if header[2].strip() == table else 0
            table = header[2].strip()
            if header[1] == "[":
                number_of_table = place
            if number_of_table == place and f"{wanted}.".startswith(f"{table}."):
                best = number
            continue
        key = re.match(r"\s*([\w.-]+|\"[^\"]+\")\s*=", line)
        if key and number_of_table == place and ".".join(filter(None, [table, key[1].strip('"')])) == wanted:
            return number
    return best
