"""The load generators of `imserver bench`, and what verifies what the server did (docs/howto/measure.md).

It must never be what is measured, so it shares nothing with the server: raw non-blocking sockets, one epoll loop,
frames made by one formatting each, and answers that are searched for a few bytes rather than decoded.

    wire.py     the bytes: frames to send, and the search for ids in what was received
    framing.py  how frames travel: over TCP, or in the messages of a WebSocket
    pair.py     one sender and one recipient: what they have sent and got
    load.py     connects the pairs and drives them through warm-up, the measured span and the rest
    checks.py   afterwards: was each message acked, delivered once, in order, and stored?
    figures.py  what the measured span was like
    group.py    another load: messages to one large group, and what pairs feel of it
    process.py  a server of the benchmark's own, and the CPU time of processes
    run.py      all of it in order

Depends on: the standard library, msgpack, PyJWT; never on the server's modules.
"""
