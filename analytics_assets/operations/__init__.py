"""What runs by itself: automation, freshness, and the catch-up that `make run` does."""
