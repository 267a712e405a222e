"""What an administrator sees of the server: its figures, its plugins, its configuration."""

from imserver_plugins.admin.plugin import AdminPlugin

__all__ = ["AdminPlugin"]
