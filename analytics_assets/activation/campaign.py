"""Who gets the e-mail of a day, with what in it, and what changed since the last one: pure functions, no Dagster, no files written.

The columns are those that two senders import as they are:

* Klaviyo (Help Center, "How to create and add subscribers to a new list" and "Troubleshooting list imports"): CSV of at most
  50 MB, the address in the first column, every other column a custom property, no address twice. What a column is gets
  chosen while importing; ids of digits alone are proposed as numbers and must be mapped as text.
* Braze (Docs, "CSV import"): headers `email` and `external_id` exactly so, every other column a custom attribute, at most
  500 MB. What stands in quotation marks is text; without them the id 0130 arrives as 88, read as an octal number. A blank cell
  leaves the old value in the profile: a template loops over `rec_count`, never over all columns, and a product that no order
  line names goes by its id. Imported text is not escaped, so product names carry no angle brackets.

Text that begins with `=`, `+` or `-`, as an address may, goes out as it is: a mark before it, which keeps a spreadsheet from
computing it, would be part of the address or id that is imported.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl

from analytics_assets.retail.recommendations.names import without_markup
from analytics_assets.settings import Activation, Customers

KLAVIYO_BYTES = 50_000_000
# A million rows as text at once took 0.5 GB.
ROWS_WRITTEN_AT_ONCE = 10_000
REFUSAL = 1
BUY_AGAIN_SHARE = 4
"""One place in so many is for what the customer buys again; the others show what is new to them."""
_UNSEEN = "\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff"
ADDRESS = rf"^[^'\s@,;:<>()\[\]\"\\{_UNSEEN}][^\s@,;:<>()\[\]\"\\{_UNSEEN}]*@[\w-]+(\.[\w-]+)+$"
"""A sender may drop what is not seen, and so write to an address that is suppressed: an address with such characters is none."""


_QUOTES = "\"'`“”‘’«»<>"
_BESIDE = re.compile(r'@.*[\s,;<>()\[\]"\\?]|[\s,;<>()\[\]"\\].*@')
"""An address, and what is part of none before or after it."""
_HEADINGS = {"email", "e-mail", "email address", "customer_id", "external_id"}
"""What may stand above the column in the suppression file: nobody goes by such a name."""


class SuppressionError(Exception):
    """The suppression file cannot be relied on; nothing goes out. The message holds no address."""


@dataclass(frozen=True)
class Contacts:
    """What is known of people on the evening of a day.

    `standing`: customer_id, segment, value_band, place, customers (`standing.sql`). `traits`: customer_id, trait, value,
    said_second (`contact_traits.sql`). `shared`: the same of blocked identities, who are no customers: identity, trait, value,
    said_second (`shared_traits.sql`). Both with what was said before the first day (`early_traits.duckdb.sql`).
    `identities`: customer_id, identity (`known_identities.duckdb.sql`). `picks`: customer_id, product_ids in their order
    (`picks.sql`). `product_names`: product_id, product_name. `suppressed`: addresses and customer ids, as `alike` gives them.
    """

    standing: pl.DataFrame
    traits: pl.DataFrame
    shared: pl.DataFrame
    identities: pl.DataFrame
    picks: pl.DataFrame
    product_names: pl.DataFrame
    suppressed: frozenset[str]


@dataclass(frozen=True)
class LastSend:
    """What was sent last in this campaign before the day: address_hash and row_digest of every recipient."""

    day: date | None
    rows: pl.DataFrame


@dataclass(frozen=True)
class Campaign:
    """The frames of a day, each ordered by address.

    `recipients` has one row per address; `holdout` the same columns for those left out on purpose; `delta` the recipients
    whose row differs from the one sent last; `removed` (email, external_id, reason) those who got the last one and must not get
    this one. `left_out` counts customers by reason; with the recipients they add up to all customers of the day.
    `suppressions_matched` counts entries of the suppression file that name somebody who is known.
    """

    recipients: pl.DataFrame
    holdout: pl.DataFrame
    delta: pl.DataFrame
    removed: pl.DataFrame
    left_out: dict[str, int]
    suppressions_matched: int


@dataclass(frozen=True)
class Suppressed:
    """What the suppression file names: addresses and customer ids that get nothing, how many, and its SHA-256.

    A name stands there in lower case and as `alike` gives it, one in quotation marks with and without them: an id may have some of its own.
    """

    names: frozenset[str]
    entries: int
    sha256: str | None


def read_suppressed(file: Path | None) -> Suppressed:
    """Read the suppression file, one address or customer id a line; nobody is suppressed where the settings name none.

    Letter case, spaces and quotation marks around an entry, `mailto:` before it and a dot after an address are nothing of it.

    Raises:
        SuppressionError: the file cannot be read, names nobody (an export that failed is empty), or a line holds an address and
            something else beside it.
    """
    if file is None:
        return Suppressed(frozenset(), 0, None)
    path = file.expanduser().resolve()
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SuppressionError(
            f"the suppression file {path} cannot be read ({type(error).__name__}); correct suppression_file under [activation]"
        ) from None
    written = [_folded_text(line.strip().strip('"')) for line in lines]
    entries = [name.strip().strip(_QUOTES).removeprefix("mailto:").strip() for name in written]
    entries = [entry.rstrip(".") if "@" in entry else entry for entry in entries]
    for number, (line, entry) in enumerate(zip(lines, entries, strict=True), 1):
        several = re.search(r"[,;\t]", entry) and line.strip()[:1] not in _QUOTES
        if several or _BESIDE.search(entry) or ("@" in entry and not entry.isprintable()):
            raise SuppressionError(f"{path}:{number}: one address or customer id a line, and nothing beside it")
    named = [(entry, name) for entry, name in zip(entries, written, strict=True) if entry]
    if named and named[0][0] in _HEADINGS:
        del named[0]
    if not named:
        raise SuppressionError(
            f"the suppression file {path} names nobody; put its entries back, or remove suppression_file under [activation] if "
            f"nobody is suppressed"
        )
    names = frozenset(name for both in named for name in (*both, *map(alike, both)))
    return Suppressed(names, len({entry for entry, _ in named}), hashlib.sha256(content).hexdigest())


def is_held_out(customer_id: str, share: float) -> bool:
    """Whether a customer belongs to the fixed share that gets no campaign.

    The first 64 bits of SHA-256 as a number between 0 and 1: the same on every day and machine, and a larger share keeps all
    those of a smaller one.
    """
    return int.from_bytes(hashlib.sha256(f"holdout {customer_id}".encode()).digest()[:8]) < share * 2**64


def make_campaign(contacts: Contacts, last: LastSend, activation: Activation, customers: Customers) -> Campaign:
    """Choose the recipients of a day.

    Consent, suppression and holdout belong to an address, not to one of the customers who share it: whoever of them refused,
    is suppressed or held out decides for all. The row is that of the most valuable one (place in the currency; ties: the
    smallest id). Who has said nothing has not consented; who refused gets nothing even where no consent is required. A customer
    is suppressed by every identity that they go or went by and by every address that they ever told, and with them are all of
    these addresses, whoever tells one of them later: a new account at an old address is more often the same person than another.
    What was said under an address that is blocked, since many share it, is no consent; a refusal holds for the address.
    """
    names = _names(contacts, customers)
    suppressed = names.filter(pl.col("name").is_in(list(contacts.suppressed)))
    closed = names.join(suppressed, on="customer_id", how="semi")["name"].unique()
    people = _people(contacts, closed, activation, customers)
    chosen = people.drop_nulls("email").unique("alike", keep="first", maintain_order=True)
    reason = (
        pl.when("suppressed").then(pl.lit("suppressed"))
        .when(~pl.col("consents")).then(pl.lit("no consent"))
        .when(pl.col("rec_count") == 0).then(pl.lit("no products"))
        .when("held_out").then(pl.lit("holdout"))
    )  # fmt: skip
    rows = (
        chosen.join(contacts.picks, on="customer_id", how="left", maintain_order="left")
        .with_columns(rec_count=pl.col("product_ids").list.len().fill_null(0).cast(pl.Int64))
        .with_columns(reason=reason)
        .sort("email")
    )
    recipients = _with_products(rows.filter(pl.col("reason").is_null()), contacts, activation.products_per_email)
    delta = recipients
    if last.day:
        unchanged = row_digests(recipients).join(last.rows, on=["address_hash", "row_digest"], how="semi")
        delta = recipients.join(unchanged, on="email", how="anti", maintain_order="left")
    counts = dict(rows.drop_nulls("reason").group_by("reason").len().rows())
    no_address = people["email"].null_count()
    return Campaign(
        recipients=recipients,
        holdout=_with_products(rows.filter(reason="holdout"), contacts, activation.products_per_email),
        delta=delta,
        removed=_removed(contacts, customers, rows, last),
        left_out={
            "no address": no_address,
            "address of another customer": people.height - no_address - rows.height,
            **{name: counts.get(name, 0) for name in ("suppressed", "no consent", "no products", "holdout")},
        },
        suppressions_matched=suppressed["name"].n_unique(),
    )


def _people(contacts: Contacts, closed: pl.Series, activation: Activation, customers: Customers) -> pl.DataFrame:
    """One row per customer, most valuable first, with their address and what holds for all who share it.

    `closed`: names of those who are suppressed, addresses among them.
    """
    # Of two answers within one second the refusal counts; of two addresses the first in the alphabet.
    agree = pl.col("value").is_in(list(activation.consent_means)).all()
    consent = _latest(contacts.traits, customers.consent, "customer_id").group_by("customer_id").agg(agrees=agree)
    shared = _latest(contacts.shared, customers.consent, "identity").group_by("identity").agg(agrees=agree)
    refused = _all_alike(shared.filter(~pl.col("agrees"))["identity"])
    told = (
        _latest(contacts.traits.filter(_folded("value").str.contains(ADDRESS)), customers.email, "customer_id")
        .group_by("customer_id")
        .agg(told=pl.col("value").min())
    )
    # The name that the customer goes by, before others.
    named = (
        _usable(contacts.identities)
        .sort(pl.col("address") != _folded("customer_id"), "address")
        .unique("customer_id", keep="first", maintain_order=True)
        .select("customer_id", named="address")
    )
    held_out = [is_held_out(who, activation.holdout_share) for who in contacts.standing["customer_id"]]
    agrees, refuses = pl.col("agrees").any(), (~pl.col("agrees")).any()
    # Somebody who never bought may share the address of somebody who did, and may have refused.
    people = (
        _everybody(contacts)
        .join(
            contacts.standing.with_columns(held_out=pl.Series(held_out, dtype=pl.Boolean)),
            on="customer_id",
            how="left",
            maintain_order="left",
        )
        .join(consent, on="customer_id", how="left")
        .join(told, on="customer_id", how="left")
        .join(named, on="customer_id", how="left")
        .sort(pl.col("place") / pl.col("customers"), "customer_id")
        .with_columns(email=pl.coalesce("told", "named"))
    )
    return (
        people.with_columns(alike=_all_alike(people["email"]))
        .with_columns(
            suppressed=pl.col("alike").is_in(closed.implode()),
            held_out=pl.col("held_out").any().over("alike"),
            consents=((agrees if activation.consent_required else pl.lit(True)) & ~refuses).over("alike"),
        )
        .with_columns(consents=pl.col("consents") & ~pl.col("alike").is_in(refused.implode()))
        .filter(pl.col("place").is_not_null())
    )


def _everybody(contacts: Contacts) -> pl.DataFrame:
    frames = (contacts.standing, contacts.traits, contacts.identities)
    return pl.concat([frame.select("customer_id") for frame in frames]).unique(maintain_order=True)


def _names(contacts: Contacts, customers: Customers) -> pl.DataFrame:
    """Every name of everybody (customer_id, name), as `alike` gives it: ids, identities, and the addresses that they ever told."""
    told = contacts.traits.filter(pl.col("trait").is_in(list(customers.email)))
    names = pl.concat(
        [
            _everybody(contacts).select("customer_id", name="customer_id"),
            contacts.identities.select("customer_id", name="identity"),
            told.select("customer_id", name="value"),
        ]
    )
    return names.with_columns(_all_alike(names["name"]))


def _folded(column: str) -> pl.Expr:
    """Addresses as they are written to: letter case, spaces around them, and how an accent is written, aside."""
    return pl.col(column).str.normalize("NFC").str.strip_chars().str.to_lowercase()


def _folded_text(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().lower()


def alike(name: str) -> str:
    """What is equal for all spellings of a name, to compare and never to write to.

    Letter case (also ß and ss, σ and ς), wide and joined letters, how an accent is written, spaces around, and whether a domain is
    written in its own letters or as xn--....
    """
    lower = name.strip().lower()
    if lower.isascii() and "xn--" not in lower:
        return lower
    start, at, domain = _without_case(name).rpartition("@")
    if at:
        domain = ".".join(_in_letters(label) if label.startswith("xn--") else label for label in domain.split("."))
    return start + at + domain


def _without_case(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).strip()


def _in_letters(label: str) -> str:
    """A label of a domain in its own letters (RFC 3492), if it stands for any."""
    try:
        return _without_case(label.removeprefix("xn--").encode("ascii").decode("punycode"))
    except UnicodeError:
        return label


def _all_alike(names: pl.Series) -> pl.Series:
    """Each name as `alike` gives it."""
    is_odd = names.str.contains(r"[^\x20-\x7E]|(?i:xn--)")
    odd = names.filter(is_odd).unique()
    return names.str.strip_chars().str.to_lowercase().zip_with(~is_odd, names.replace(odd, [alike(name) for name in odd]))


def _latest(traits: pl.DataFrame, names: Sequence[str], who: str) -> pl.DataFrame:
    """The newest value of any of these traits of each who, in lower case; several where a second saw several."""
    of_names = traits.filter(pl.col("trait").is_in(list(names))).with_columns(_folded("value"))
    return of_names.filter(pl.col("said_second") == pl.col("said_second").max().over(who))


def _usable(identities: pl.DataFrame) -> pl.DataFrame:
    return identities.with_columns(address=_folded("identity")).filter(pl.col("address").str.contains(ADDRESS))


def _with_products(rows: pl.DataFrame, contacts: Contacts, count: int) -> pl.DataFrame:
    """The rows as they are sent, with id and name of the product of each place; blank where there are fewer products."""
    names = contacts.product_names.select("product_id", name=without_markup("product_name"))
    picked = rows["product_ids"]
    rows = rows.rename({"customer_id": "external_id"}).select("email", "external_id", "segment", "value_band", "rec_count")
    for place in range(1, count + 1):
        ids = picked.list.get(place - 1, null_on_oob=True).cast(pl.String).alias("product_id").to_frame()
        named = ids.join(names, on="product_id", how="left", maintain_order="left").select(
            pl.col("product_id").alias(f"rec_{place}_id"), pl.coalesce("name", "product_id").alias(f"rec_{place}_name")
        )
        rows = rows.hstack(named)
    return rows


def address_hash(address: str) -> str:
    """SHA-256 of a lower-case address, in hex: what the ledger knows of it."""
    return hashlib.sha256(address.encode()).hexdigest()


def row_digests(rows: pl.DataFrame) -> pl.DataFrame:
    """email, address_hash and row_digest (SHA-256 over names and values of all columns) of each row."""
    schema = {"email": pl.String, "address_hash": pl.String, "row_digest": pl.String}
    digests = [pl.DataFrame(schema=schema)]
    for some in rows.iter_slices(ROWS_WRITTEN_AT_ONCE):
        texts = some.select(pl.struct(pl.all()).struct.json_encode()).to_series()
        columns = (
            some["email"],
            [address_hash(address) for address in some["email"]],
            [hashlib.sha256(text.encode()).hexdigest() for text in texts],
        )
        digests.append(pl.DataFrame(dict(zip(schema, columns, strict=True)), schema=schema))
    return pl.concat(digests)


def _removed(contacts: Contacts, customers: Customers, rows: pl.DataFrame, last: LastSend) -> pl.DataFrame:
    """Who was written to last time and is not now, as far as the address is still known of anybody."""
    if last.rows.is_empty():
        return pl.DataFrame(schema={"email": pl.String, "external_id": pl.String, "reason": pl.String})
    told = contacts.traits.filter(pl.col("trait").is_in(list(customers.email))).select("customer_id", address=_folded("value"))
    known = (
        pl.concat([told, _usable(contacts.identities).select("customer_id", "address")])
        .sort("address", "customer_id")
        .unique("address", keep="first", maintain_order=True)
    )
    hashes = pl.Series("address_hash", [address_hash(address) for address in known["address"]], dtype=pl.String)
    return (
        known.with_columns(hashes)
        .join(last.rows, on="address_hash", how="semi")
        .join(rows.filter(pl.col("reason").is_null()), left_on="address", right_on="email", how="anti")
        .join(rows.select("email", "reason"), left_on="address", right_on="email", how="left")
        .select(email="address", external_id="customer_id", reason=pl.col("reason").fill_null("no longer their address"))
        .sort("email")
    )


def broken_promises(recipients: pl.DataFrame, contacts: Contacts, activation: Activation, customers: Customers) -> list[str]:
    """What a finished list must never be, looked up row by row and not by the way in which it was made; no text names anybody."""
    answers = _last_answers(contacts.traits.select("customer_id", "trait", "value", "said_second"), activation, customers)
    shared = _last_answers(contacts.shared.select("identity", "trait", "value", "said_second"), activation, customers)
    refusing = {who for who, answer in answers.items() if answer & REFUSAL}
    refused = {alike(identity) for identity, answer in shared.items() if answer & REFUSAL}

    def names() -> Iterator[tuple[str, str, int | None]]:
        """Who, a name of theirs, and when it was told as an address."""
        for who in recipients["external_id"]:
            yield who, who, None
        for who, identity in contacts.identities.select("customer_id", "identity").iter_rows():
            yield who, identity, None
        for who, trait, value, second in contacts.traits.select("customer_id", "trait", "value", "said_second").iter_rows():
            if trait in customers.email:
                yield who, value, second

    rows = recipients.select("email", "external_id")
    suppressed = {who for who, name, _ in names() if alike(name) in contacts.suppressed or alike(who) in contacts.suppressed}
    closed = set(contacts.suppressed)
    silent = {alike(address) for address, who in rows.iter_rows() if who not in answers}
    told: dict[str, tuple[float, str]] = {}
    named: dict[str, tuple[bool, str]] = {}
    for who, name, second in names():
        if who in suppressed:
            closed.add(alike(name))
        if silent and who in answers:
            silent.discard(alike(name))
        if who in refusing and re.match(ADDRESS, address := _folded_text(name)):
            if second is None:
                named[who] = min(named.get(who, (True, address)), (address != _folded_text(who), address))
            else:
                told[who] = min(told.get(who, (math.inf, address)), (-second, address))
    refused |= {alike(told[who][1] if who in told else named[who][1]) for who in refusing if who in told or who in named}
    found = {
        "addresses stand there twice": recipients.height - _all_alike(recipients["email"]).n_unique(),
        "customers stand there twice": recipients.height - recipients["external_id"].n_unique(),
        "are no addresses": sum(address.count("@") != 1 or " " in address for address in recipients["email"]),
        "are suppressed": sum(alike(address) in closed or who in suppressed for address, who in rows.iter_rows()),
        "refused": sum(alike(address) in refused or who in refusing for address, who in rows.iter_rows()),
        "never consented": sum(who not in answers and alike(address) in silent for address, who in rows.iter_rows())
        if activation.consent_required
        else 0,
        "belong to the holdout": sum(is_held_out(who, activation.holdout_share) for who in recipients["external_id"]),
    }
    return [f"{count} {what}" for what, count in found.items() if count]


def _last_answers(said: pl.DataFrame, activation: Activation, customers: Customers) -> dict[str, int]:
    """The latest answer of each who: twice its second, and one more for a refusal, which counts where a second saw both."""
    answers: dict[str, int] = {}
    for who, trait, value, second in said.iter_rows():
        if trait in customers.consent:
            answer = 2 * second + (_folded_text(value) not in activation.consent_means and REFUSAL)
            answers[who] = max(answers.get(who, answer), answer)
    return answers


def csv_parts(rows: pl.DataFrame, limit: int = KLAVIYO_BYTES) -> Iterator[tuple[pl.DataFrame, bytes]]:
    """The rows as UTF-8 CSV with a header, text in quotation marks, in as many parts as it takes to stay within `limit` bytes each."""
    header = _csv(rows.clear(), header=True)
    start, end, part = 0, 0, [header]
    for some in rows.iter_slices(ROWS_WRITTEN_AT_ONCE):
        for height, text in _pieces(some, limit - len(header)):
            if end > start and sum(map(len, part)) + len(text) > limit:
                yield rows[start:end], b"".join(part)
                start, part = end, [header]
            part.append(text)
            end += height
    yield rows[start:end], b"".join(part)


def _pieces(rows: pl.DataFrame, room: int) -> Iterator[tuple[int, bytes]]:
    """Number of rows and text of pieces that fit, or are one row."""
    text = _csv(rows, header=False)
    if len(text) <= room or rows.height < 2:
        yield rows.height, text
        return
    middle = rows.height // 2
    yield from _pieces(rows[:middle], room)
    yield from _pieces(rows[middle:], room)


def _csv(rows: pl.DataFrame, header: bool) -> bytes:
    return rows.write_csv(include_header=header, line_terminator="\n", quote_style="non_numeric").encode()
