"""A judge's server on this machine."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def longest(one, two):
    """A judge without taste."""
    return "1" if len(one) > len(two) else "2" if len(two) > len(one) else "tie"


@contextlib.contextmanager
def judging(say=longest, version=lambda count: "judge-1", status=lambda count: 200, seconds=0.0, location=None):
    """Yield the address of a server that answers as a judge, and the list of questions that it was asked.

    `say` gets both outputs; `version` and `status` get the number of the request. `location` is sent as a header.
    """
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(body)
            count = len(asked)
            time.sleep(seconds)
            text = body["messages"][1]["content"]
            one, two = (text.split(f"<output-{i}>\n")[1].split(f"\n</output-{i}>")[0] for i in (1, 2))
            content = {"id": "x", "object": "chat.completion", "created": 0, "model": version(count),
                       "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
                       "choices": [{"index": 0, "finish_reason": "stop",
                                    "message": {"role": "assistant", "content": say(one, two)}}]}  # fmt: skip
            answer = json.dumps(content if status(count) == 200 else {"error": {"message": "busy"}}).encode()
            with contextlib.suppress(OSError):  # the asker has left
                self.send_response(status(count))
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.send_header("retry-after-ms", "1")
                if location:
                    self.send_header("location", location)
                self.end_headers()
                self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
