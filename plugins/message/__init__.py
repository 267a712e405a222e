"""Messages: send, read, catch up (wire protocol, commands 2001–2004, 2011, 2014).

plugin.py has the commands, requests.py their bodies, access.py who may see which conversation.
"""

from imserver_plugins.message.plugin import MessagePlugin

__all__ = ["MessagePlugin"]
