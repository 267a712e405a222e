"""The tables of this plugin, and all its SQL.

* index.py: the tables and the statements that fill them
* searching.py: a search; whole.py: the messages that it has found
"""
