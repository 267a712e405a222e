"""The audit log: who did what that matters, in a table that grows at its end and in which no row can be changed unseen."""

from imserver_plugins.audit.plugin import AuditPlugin

__all__ = ["AuditPlugin"]
