"""Usage of every account, by hour and by day."""
