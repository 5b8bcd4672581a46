"""Customers: what each has bought up to the end of a day."""
