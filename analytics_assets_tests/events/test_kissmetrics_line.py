"""What one line of a KISSmetrics export means: records, reasons for setting a line aside, and mending."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.events.kissmetrics_line import Record, Unreadable, event_name, parse

AT = 1_393_344_604


def record(line: bytes | dict[str, Any]) -> Record:
    return parse(line if isinstance(line, bytes) else json.dumps(line).encode())


def properties(line: bytes | dict[str, Any]) -> dict[str, str]:
    return json.loads(record(line).properties)


def octal(line: bytes) -> bytes:
    """Non-ASCII as octal escapes of its UTF-8 bytes, as real exports have it."""
    return b"".join(b"\\%03o" % byte if byte >= 0x80 else bytes([byte]) for byte in line)


def test_an_event_a_property_set_and_an_alias() -> None:
    event = record({"_n": "Visited Site", "_p": "a", "_t": AT, "URL": "http://x.test/"})
    assert (event.kind, event.name, event.identity, event.occurred_at) == ("event", "visited site", "a", AT * 1_000_000)
    assert event.properties == '{"url":"http://x.test/"}'
    assert event.system is None
    assert record({"_p": "a", "_t": AT, "plan name": "Pro"}).kind == "set"
    alias = record({"_p": "a", "_p2": "b", "_t": AT})
    assert (alias.kind, alias.other_identity, alias.properties) == ("alias", "b", "{}")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "blank line"),
        (b" \t", "blank line"),
        (b'{"_n":"purchased","_p":"a","_t":13', "not valid JSON: Expecting ',' delimiter"),
        (b'{"_n":"purchased","_p":"a', "not valid JSON: Unterminated string starting"),
        (b'{"_p":"a","_t":1}{"_p":"a","_t":1}', "not valid JSON: Extra data"),
        (b'{"_p":"a","_t":1,}', "not valid JSON: Expecting property name enclosed in double quotes"),
        (b'{"_p":"a","_t":NaN}', "not valid JSON: NaN is not a JSON value"),
        (b"\x00\x01\x02", "not valid JSON: Expecting value"),
        (b"[" * 100_000, "not valid JSON: nested too deeply"),
        (b"\xff\xfe\xfd", "not UTF-8 text and not mendable"),
        (b"[1,2,3]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b'{"_n":"purchased","_t":1}', "no identity (_p)"),
        (b'{"_p":null,"_t":1}', "no identity (_p)"),
        (b'{"_p":" ","_t":1}', "no identity (_p)"),
        (b'{"_p":["a"],"_t":1}', "no identity (_p)"),
        (b'{"_p":true,"_t":1}', "no identity (_p)"),
        (b'{"_p":"a"}', "no time (_t)"),
        (b'{"_p":"a","_t":null}', "no time (_t)"),
        (b'{"_p":"a","_t":"yesterday"}', "time (_t) is not a number of seconds"),
        (b'{"_p":"a","_t":true}', "time (_t) is not a number of seconds"),
        (b'{"_p":"a","_t":""}', "time (_t) is not a number of seconds"),
        (b'{"_p":"a","_t":"1_000"}', "time (_t) is not a number of seconds"),
        ('{"_p":"a","_t":"١٢٣"}'.encode(), "time (_t) is not a number of seconds"),
        (b'{"_p":"a","_t":-1}', "time (_t) is out of range"),
        (b'{"_p":"a","_t":99999999999999999999}', "time (_t) is out of range"),
        (b'{"_p":"a","_t":1e999}', "time (_t) is out of range"),
        (b'{"_p":"a","_t":253402300800}', "time (_t) is out of range"),
        (b'{"_p":"a","_p2":"","_t":1}', "alias without a second identity (_p2)"),
        (b'{"_p":"a","_p2":null,"_t":1}', "alias without a second identity (_p2)"),
        (b'{"_n":"x","_p":"a","_p2":" ","_t":1}', "alias without a second identity (_p2)"),
    ],
)
def test_a_line_that_is_no_record_has_a_reason(line: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as error:
        parse(line)
    assert str(error.value) == reason


@pytest.mark.parametrize(
    ("time", "microseconds"),
    [
        ("0", 0),
        ("1393344604", AT * 1_000_000),
        ('"1393344604"', AT * 1_000_000),
        ('" 1393344604 "', AT * 1_000_000),
        ("1393344604.0", AT * 1_000_000),
        ("1.393344604e9", AT * 1_000_000),
        ("1393344604.5", AT * 1_000_000 + 500_000),
        ("1393344604.1234569", AT * 1_000_000 + 123_456),
        ("253402300799", 253_402_300_799_000_000),
    ],
)
def test_the_time_is_seconds_as_a_number_or_its_text(time: str, microseconds: int) -> None:
    assert record(b'{"_p":"a","_t":%s}' % time.encode()).occurred_at == microseconds


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (rb'{"_p":"a","_t":1,"v":"Paran\303\241: Today"}', "Paraná: Today"),
        (rb'{"_p":"a","_t":1,"v":"\302\2435"}', "£5"),
        (rb'{"_p":"a","_t":1,"v":"cde \042"}', 'cde "'),
        (rb'{"_p":"a","_t":1,"v":"a\134b"}', r"a\b"),
        (rb'{"_p":"a","_t":1,"v":"a\012b\011c"}', "a\nb\tc"),
        (rb'{"_p":"a","_t":1,"v":"it\'s"}', "it's"),
        (rb'{"_p":"a","_t":1,"v":"C:\Program Files"}', r"C:\Program Files"),
        (rb'{"_p":"a","_t":1,"v":"\303\241 \\303 \u00e9"}', "á \\303 é"),
        (rb'{"_p":"a","_t":1,"v":"valid \\303\\241"}', r"valid \303\241"),
        (b'{"_p":"a","_t":1,"v":"caf\xe9"}', "café"),
        (b'{"_p":"a","_t":1,"v":"caf\xe9 \\\\303"}', "café \\303"),
        (b'{"_p":"a","_t":1,"v":"caf\xe9 \xc3\xa9 \\303\\251"}', "café é é"),
        (b'\xef\xbb\xbf{"_p":"a","_t":1,"v":"after a byte order mark"}', "after a byte order mark"),
        (b'{"_p":"a","_t":1,"v":"a raw \ttab"}', "a raw \ttab"),
        (rb'{"_p":"a","_t":1,"v":"nul \u0000"}', "nul \ufffd"),
        (rb'{"_p":"a","_t":1,"v":"nul \000"}', "nul \ufffd"),
        (rb'{"_p":"a","_t":1,"v":"half \ud83d"}', "half \ufffd"),
        (rb'{"_p":"a","_t":1,"v":"whole \ud83d\ude00"}', "whole \U0001f600"),
    ],
)
def test_what_strict_json_refuses_is_mended(line: bytes, value: str) -> None:
    assert properties(line) == {"v": value}


def test_names_and_keys_are_mended_too() -> None:
    mended = record(rb'{"_n":"Compr\303\263","_p":"jos\303\251","_t":1,"Tama\303\261o":"M"}')
    assert (mended.name, mended.identity, mended.properties) == ("compró", "josé", '{"tamaño":"M"}')


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1.10", "1.10"),
        ("-0", "-0"),
        ("1E5", "1E5"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("true", "true"),
        ("false", "false"),
        ('""', ""),
        ('[1.0, null, {"b": true, "a": "x"}]', '[1.0,null,{"b":true,"a":"x"}]'),
        ("{}", "{}"),
    ],
)
def test_values_are_text_as_they_stand(value: str, text: str) -> None:
    assert properties(b'{"_p":"a","_t":1,"v":%s}' % value.encode()) == {"v": text}


def test_null_is_the_same_as_absent() -> None:
    assert record({"_p": "a", "_t": 1, "v": None}) == record({"_p": "a", "_t": 1})
    assert record({"_p": "a", "_t": 1, "_n": None, "_x": None}) == record({"_p": "a", "_t": 1})
    assert record({"_p": "a", "_t": 1, "_n": "x", "_p2": None}).kind == "event"


def test_of_two_keys_that_are_the_same_the_last_counts() -> None:
    assert properties(b'{"_p":"a","_t":1,"Billing Amount":"1","billing amount":"2"}') == {"billing amount": "2"}
    assert properties(b'{"_p":"a","_t":1,"A":"1","a":"2","A":"3"}') == {"a": "3"}
    assert properties(b'{"_p":"a","_t":1,"A":"1"," a ":null}') == {}


def test_names_are_compared_as_kissmetrics_does() -> None:
    assert event_name(" Order: Paid, Twice ") == event_name("order paid\t twice") == "order paid twice"
    assert properties(b'{"_p":"a","_t":1,"Account  ID ":"7"}') == {"account id": "7"}
    assert record({"_n": " ", "_p": "a", "_t": 1}).kind == "set"
    assert record({"_n": 7, "_p": 12, "_t": 1}) == record({"_n": "7", "_p": "12", "_t": 1})


def test_an_alias_keeps_its_name() -> None:
    alias = record({"_n": "Signed Up", "_p": "a", "_p2": "b", "_t": 1})
    assert (alias.kind, alias.name, alias.other_identity) == ("alias", "signed up", "b")


def test_a_phones_clock_gives_way_to_the_servers() -> None:
    phone = record({"_n": "x", "_p": "a", "_t": 5, "_c": "mobile_app", "_server_timestamp": AT, "v": "1"})
    assert phone.occurred_at == AT * 1_000_000
    assert phone.system == f'{{"_c":"mobile_app","_server_timestamp":"{AT}","_t":"5"}}'
    assert phone.properties == '{"v":"1"}'
    assert record({"_p": "a", "_t": 5, "_c": "mobile_app", "_server_timestamp": "later"}).occurred_at == 5_000_000
    assert record({"_p": "a", "_t": 5, "_server_timestamp": AT}).occurred_at == 5_000_000


def test_a_repeated_record_has_the_same_id_however_it_is_written() -> None:
    ways = [
        '{"_n":"Café","_p":"é","_t":1,"A":"ö","b":"1"}'.encode(),
        octal('{"_n":"café","_p":"é","_t":1,"a":"ö","b":"1"}'.encode()),
        '{"_n":"café","_p":"é","_t":1,"a":"ö","b":"1"}'.encode("latin-1"),
        rb'{ "b" : 1, "a":"\u00f6", "_t":"1", "_p":"\u00e9", "_n":" CAF\u00c9", "c":null, "_u":"agent" }',
    ]
    assert len({parse(way).record_id for way in ways}) == 1


def test_records_that_differ_have_different_ids() -> None:
    lines = [
        {"_p": "a", "_t": 1},
        {"_p": "b", "_t": 1},
        {"_p": "a", "_t": 2},
        {"_n": "b", "_p": "a", "_t": 1},
        {"_p": "a", "_p2": "b", "_t": 1},
        {"_n": "b", "_p": "a", "_p2": "b", "_t": 1},
        {"_p": "a", "_t": 1, "b": ""},
        {"_p": 'a"\n"b', "_t": 1},
        {"_p": "a", "_t": 1, "b": "1", "c": "2"},
        {"_p": "a", "_t": 1, "b": '1","c":"2'},
    ]
    assert len({record(line).record_id for line in lines}) == len(lines)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
NAMED = TEXT.filter(str.strip)
KEYS = TEXT.filter(lambda key: not key.strip().startswith("_"))
# One beyond ASCII at a time: two in a row may by chance be UTF-8.
LATIN_1 = st.lists(st.characters(min_codepoint=0xA0, max_codepoint=0xFF), max_size=5).map(".".join)
ESCAPED = st.from_regex(rb'\{"_p":"(\\[0-7x\'"u]{1,4}|.){0,9}","_t":1\}')


@given(identity=NAMED, name=NAMED, values=st.dictionaries(KEYS, TEXT))
def test_a_record_reads_the_same_clean_and_with_octal_escapes(identity: str, name: str, values: dict[str, str]) -> None:
    line = json.dumps({**values, "_p": identity, "_n": name, "_t": AT}, ensure_ascii=False).encode()
    clean = parse(line)
    assert clean.identity == identity
    assert clean.name == (event_name(name) or None)
    assert json.loads(clean.properties) == {" ".join(key.lower().split()): value for key, value in values.items()}
    assert parse(octal(line)) == clean


@given(st.dictionaries(LATIN_1, LATIN_1))
def test_latin_1_is_read(values: dict[str, str]) -> None:
    line = json.dumps({**values, "_p": "a", "_t": AT}, ensure_ascii=False)
    assert parse(line.encode("latin-1")) == parse(line.encode())


@given(st.one_of(st.binary(), st.text().map(str.encode), ESCAPED))
def test_no_bytes_raise_anything_but_a_reason(line: bytes) -> None:
    try:
        found = parse(line)
    except Unreadable as reason:
        assert 0 < len(str(reason)) < 100
    else:
        assert json.loads(found.properties) is not None
        assert "\0" not in found.identity
