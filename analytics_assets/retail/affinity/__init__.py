"""Product affinity: which products are bought together more often than chance."""
