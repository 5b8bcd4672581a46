"""Retail: orders and customers, and what is made of them."""
