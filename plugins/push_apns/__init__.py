"""Offline push by Apple's service (APNs), for iOS, iPadOS and macOS."""

from imserver_plugins.push_apns.plugin import PushApnsPlugin

__all__ = ["PushApnsPlugin"]
