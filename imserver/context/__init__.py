"""What a handler or hook is given: `Context` with a session, `AppContext` without one.

* application.py: `AppContext`; request.py: `Context`, of one request
* messages.py: `ctx.messages`, conversations.py: `ctx.conversations`, database.py: `ctx.db`; api.py: what the first two share
* periodic.py: background work that comes round again
"""

from imserver.context.application import AppContext
from imserver.context.request import Context

__all__ = ["AppContext", "Context"]
