"""Friends and blocks (wire protocol, commands 3001–3009), and who may write to whom in a direct conversation.

* plugin.py: the commands, a line each; requests.py: their bodies; settings.py: `[plugins.friend]`
* friendships.py: requests, answers, friends; blocks.py: blocking
* gate.py: who may send, from memory; cleanup.py: drops expired requests
* store.py: the tables and all SQL
"""

from imserver_plugins.friend.plugin import FriendPlugin

__all__ = ["FriendPlugin"]
