"""Customer lifetime value: how often each customer will buy, how much they spend, and how sure that is."""
