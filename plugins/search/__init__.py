"""Finding messages (wire protocol, command 2009).

* plugin.py: the command; terms.py: how a text becomes words, and whether a query is in it
* indexer.py: what fills the index, in the background and in small steps
* store/: the index, the search, and all SQL
"""

from imserver_plugins.search.plugin import SearchPlugin

__all__ = ["SearchPlugin"]
