"""Segments: customers by recency, frequency and monetary value, by named rules and by clusters."""
