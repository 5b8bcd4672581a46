"""Recommendations: what each customer may buy again, what they may discover, and what goes with each product."""
