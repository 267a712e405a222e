"""Webhooks: other systems are told of what happens, in order and at least once; one may be asked before a message goes."""

from imserver_plugins.webhook.plugin import WebhookPlugin

__all__ = ["WebhookPlugin"]
