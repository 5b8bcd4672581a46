"""Accounts of a SaaS company: usage, health, churn."""
