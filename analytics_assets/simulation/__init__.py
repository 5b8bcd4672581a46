"""Companies with a known truth, and the exports that they would have left behind."""
