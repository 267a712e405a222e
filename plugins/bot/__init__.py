"""Bots: commands for them, URLs that post into a conversation, and messages that grow while they are written."""

from imserver_plugins.bot.plugin import BotPlugin

__all__ = ["BotPlugin"]
