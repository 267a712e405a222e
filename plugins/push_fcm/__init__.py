"""Offline push by Google's service (Firebase Cloud Messaging), for Android, and for iOS and the web by it."""

from imserver_plugins.push_fcm.plugin import PushFcmPlugin

__all__ = ["PushFcmPlugin"]
