"""A receiver of webhooks as a process of its own, to be killed: it puts each post down before it answers.

Started as `python hook_receiver.py PORT FILE`; prints a line when it listens. A post is one line of FILE, in the order in
which they came. Now and then it dawdles between the two, so that a kill meets a post that is down and not answered.
"""

import http.server
import os
import random
import sys
import threading
import time


def main(port, path):
    """Serve until killed."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    # A post that was cut by a kill was never answered: it is not down.
    os.ftruncate(file, os.pread(file, os.fstat(file).st_size, 0).rfind(b"\n") + 1)
    lock = threading.Lock()
    chance = random.Random()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            if len(raw) < int(self.headers["Content-Length"]):
                return  # the server was killed while it posted
            with lock:
                os.write(file, raw + b"\n")
            time.sleep(chance.choice((0, 0, 0.005, 0.03)))
            try:
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
            except OSError:
                return

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
