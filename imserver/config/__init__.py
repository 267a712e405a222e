"""The configuration: a TOML file, the environment and `--set`, validated into frozen attrs classes.

* settings.py: the classes, one a section; units.py: how sizes, durations and addresses are written
* loading.py: all of it, in this order: sources.py (file, environment, `--set`), conversion.py (tables to classes, those of
  plugins, too), checks.py (what no single value shows)
* schema.py: which keys a class has; origin.py: where a value comes from; diagnostics.py: what is said of a wrong one
* plain.py: the way back, for people
"""

from imserver.config.conversion import build_settings
from imserver.config.loading import load_config
from imserver.config.plain import as_plain
from imserver.config.schema import known_keys
from imserver.config.settings import Auth, Config, Http, Limits, Network, Plugins, Proxy, Server, Tcp, Tls
from imserver.config.units import Address

__all__ = [
    "Address",
    "Auth",
    "Config",
    "Http",
    "Limits",
    "Network",
    "Plugins",
    "Proxy",
    "Server",
    "Tcp",
    "Tls",
    "as_plain",
    "build_settings",
    "known_keys",
    "load_config",
]
