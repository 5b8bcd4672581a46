"""Health of every account, and what became of accounts in each band."""
