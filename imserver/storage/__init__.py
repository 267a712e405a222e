"""SQLite behind Trio: one writer (driven by the journal's thread), a few reader threads, numbered migrations.

Nothing outside this package and the plugins' own storage files contains SQL.
"""
