"""moto on the port that is given, with one request at a time.

Its Kinesis is not made for more: records of two requests could get the same sequence number, and the one would
overwrite the other.
"""

import io
import os
import sys
import threading

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple


class OneByOne:
    def __init__(self, app):
        self.app = app
        self.turn = threading.Lock()

    def __call__(self, environ, start_response):
        # Before its turn: a client may stop in the middle, and must not stop others.
        stream = environ["wsgi.input"]
        if environ.get("wsgi.input_terminated"):
            body = stream.read()
        else:
            body = stream.read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        with self.turn:
            return list(self.app(environ, start_response))


port = int(sys.argv[1])
os.environ["MOTO_PORT"] = str(port)
app = OneByOne(DomainDispatcherApplication(create_backend_app))
run_simple("127.0.0.1", port, app, threaded=True)
