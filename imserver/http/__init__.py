"""The HTTP listener: requests are rare and slow beside frames, so each connection has an ordinary Trio task.

server.py parses with h11 and keeps the limits; health.py answers for operators. The API will stand on the same seam:
`handle(request) -> Response`.
"""
