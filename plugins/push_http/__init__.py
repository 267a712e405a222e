"""Offline push by a gateway of one's own: each push is a signed POST of JSON."""

from imserver_plugins.push_http.plugin import PushHttpPlugin

__all__ = ["PushHttpPlugin"]
