"""Who will leave: training sets, models that are rebuilt daily, and scores, of accounts and of customers."""
