"""SQLite behind Trio: one writer (driven by the journal's thread), a few reader threads, numbered migrations.

    database.py       a batch of the journal -> one transaction; reads in worker threads
    stores.py         what is read of the core's tables: messages.py, conversations.py, sync.py, deliveries.py
    rows.py           messages out of their rows, in bounded pages
    cursors.py        read cursors that own messages moved
    migrations.py     the tables, by numbered scripts; changes.py: what a change of members or of a stored message writes

Nothing outside this package and the plugins' own storage files contains SQL.
"""
