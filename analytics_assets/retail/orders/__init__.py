"""Orders and refunds with their item lines."""
