"""imserver: a durable instant-messaging server in one process.

The way of a message, and where to read it:

    listeners.py  accepts a socket and deals it to a shard
    shard.py      one thread, one trio.run: the tick; reactor.py is its epoll loop
    protocol/     bytes <-> frames <-> typed requests, without any I/O
    session.py    one connected client: input buffer, outbox, deadlines
    router.py     command ID -> handler (commands.py is the table, plugin.py what a plugin imports)
    context/      what a handler is given: `ctx`, with its `messages`, `conversations` and `db`
    send_hooks.py what the plugins say to a message before it is stored
    conversations.py  those in memory, and what is appended (conversation.py is the state of one): order, idempotency;
                  membership.py: who belongs to one; message_changes.py: what becomes of stored messages
    journal.py    the one ordered writer: group commit, and release of what waited (storage/ is below it)
    directory.py  who is online, on which shard; the pushes go back through session.py, those to thousands by fanout.py

The services themselves (users, messages, groups, push and others) are plugins, in the package `imserver_plugins`.
"""

__version__ = "0.1.0"
