"""Accounts: who belongs to which, and their contracts, as of a day."""
