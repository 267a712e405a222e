"""Groups (wire protocol, commands 4001–4013): members, roles, mutes, ways to join, and what is said of it all.

* plugin.py: the commands, a line each; requests.py: their bodies; settings.py: `[plugins.group]`
* groups.py: a group as a whole; members.py: who belongs to it and as what; joining.py: JOIN_GROUP and its answers
* state.py: a group in memory, changed in the same critical section as its conversation; gate.py: who may send
* notes.py: who is told what; seats.py: how many groups a user may be in; store.py: the tables and all SQL
"""

from imserver_plugins.group.plugin import GroupPlugin

__all__ = ["GroupPlugin"]
