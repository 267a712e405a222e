"""Pushes: confirmations by device (5002), what a device has missed, notifications of the server's owner (5009)."""

from imserver_plugins.push.plugin import PushPlugin

__all__ = ["PushPlugin"]
