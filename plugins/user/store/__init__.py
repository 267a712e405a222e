"""The tables of users and sessions, and all SQL of this plugin.

* schema.py: the tables; columns.py: how values stand in them; statements.py: what is asked of the database
* accounts.py: who may log in; sessions.py: who has, and which tokens are good; api_keys.py: the keys of back ends
* profiles.py: what users show of themselves; changes.py: what the command line has changed
"""

from imserver_plugins.user.store import accounts, api_keys, changes, columns, profiles, schema, sessions

__all__ = ["accounts", "api_keys", "changes", "columns", "profiles", "schema", "sessions"]
