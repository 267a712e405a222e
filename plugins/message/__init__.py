"""Messages: send, read, catch up (wire protocol, commands 2001–2004, 2008, 2011, 2014).

plugin.py has the commands, requests.py their bodies, access.py who may see which conversation, composing.py who
is told that somebody types.
"""

from imserver_plugins.message.plugin import MessagePlugin

__all__ = ["MessagePlugin"]
