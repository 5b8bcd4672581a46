"""Declared tables, the lake that stores them, the engine that runs SQL over them, and the database that people open."""
