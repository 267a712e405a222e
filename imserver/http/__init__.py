"""The HTTP listener: requests are rare and slow beside frames, so each connection has an ordinary Trio task.

In the order in which a request meets them: stream.py (a socket, plain or TLS), connection.py (buffer and deadlines),
head.py and body.py (one reading of a request only), asgi.py (the app answers), server.py (connections, their bounds, the
door to WebSocket). limits.py has every bound, errors.py the server's own refusals, forwarded.py who asks behind proxies.
"""
