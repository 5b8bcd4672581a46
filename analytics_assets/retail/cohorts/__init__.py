"""Cohorts: how many of those who came together come back, and what they bring."""
