"""Files: `/v1/files` over HTTP, and their place in messages.

* plugin.py: the routes, a line each, and the hooks; settings.py: `[plugins.file]`
* uploads.py: receiving, in one request or several; multipart.py: forms; headers.py, names.py: what clients say
* downloads.py: sending; ranges.py: which bytes
* access.py: who may read, how a conversation comes to hold a file, and how that ends
* store.py: the tables and all SQL; storage.py: the bytes, on the local disk or elsewhere
* cleanup.py: what goes, and when; state.py: what the requests share
"""

from imserver_plugins.file.plugin import FilePlugin

__all__ = ["FilePlugin"]
