"""Product names as people see them."""

import polars as pl


def without_markup(name: str) -> pl.Expr:
    """The names of a column on one line and without angle brackets: a mail or a page may show them as they are."""
    return pl.col(name).str.replace_all(r"[\s\p{C}]+", " ").str.strip_chars().str.replace_many(["<", ">"], ["‹", "›"])
