"""Users: registration, login, sessions and devices, profiles (commands 1001 to 1013).

* service.py: the plugin, a line for each command; requests.py: what they take
* accounts.py, login.py, sessions.py, profiles.py: the commands by theme
* presence.py: who is online, and who is told; watches.py: who watches whom
* credentials.py: who asks over HTTP, by bearer.py (tokens), keys.py (API keys) or a client certificate
* admin_routes.py: what administrators do over HTTP
* guesses.py: comparing a password, under the limits on guessing
* store/: the tables and all SQL; state.py: what the commands share
* background.py: once a second; cli.py and admin.py: the command line; roles.py: rules for both
"""

from imserver_plugins.user.service import UserPlugin

__all__ = ["UserPlugin"]
