"""Users: registration, login, sessions and devices, profiles (commands 1001 to 1011).

* service.py: the plugin, a line for each command; requests.py: what they take
* accounts.py, login.py, sessions.py, profiles.py: the commands by theme
* guesses.py: comparing a password, under the limits on guessing
* store.py: the tables and all SQL; state.py: what the commands share
* background.py: once a second; admin.py: what the command line does
"""

from imserver_plugins.user.service import UserPlugin

__all__ = ["UserPlugin"]
