"""JSON-RPC 2.0 over a Unix socket, as SPDK speaks it."""

import json
import socket


class RpcError(Exception):
    """The process answered a call with an error."""

    def __init__(self, method, error):
        super().__init__(f"{method}: {error.get('message')} (code {error.get('code')})")
        self.code = error.get("code")


class RpcClient:
    """A connection to the RPC socket of one process."""

    def __init__(self, path):
        """Connects; raises OSError while nobody listens there."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._received = ""
        self._last_id = 0

    def call(self, method, params=None, timeout=30.0):
        """Calls `method` and returns its result.

        Raises RpcError for an error that was answered, TimeoutError after `timeout` seconds without
        an answer, and ConnectionError when the other side has gone.
        """
        (result,) = self.call_all(method, [params], timeout)
        return result

    def call_all(self, method, params, timeout=30.0):
        """Calls `method` once with each of `params`, without waiting in between; the results in the same order. Raises as
        `call`, and for an error when all have been answered.
        """
        self._socket.settimeout(timeout)
        return self.results(method, self.send(method, params), timeout)

    def send(self, method, params):
        """Calls `method` once with each of `params`, and waits for no answer. What comes back is for `results`."""
        ids = range(self._last_id + 1, self._last_id + 1 + len(params))
        self._last_id += len(params)
        requests = [{"jsonrpc": "2.0", "id": number, "method": method} | ({"params": one} if one else {})
                    for number, one in zip(ids, params)]
        self._socket.sendall("".join(json.dumps(request) for request in requests).encode())
        return ids

    def results(self, method, ids, timeout):
        """The results of what was sent last. Raises as `call_all`."""
        self._socket.settimeout(timeout)
        responses = {response["id"]: response for response in (self._receive() for _ in ids)}
        for number in ids:
            if "error" in responses[number]:
                raise RpcError(method, responses[number]["error"])
        return [responses[number]["result"] for number in ids]

    def close(self):
        """Closes the connection."""
        self._socket.close()

    def _receive(self):
        while True:
            try:
                response, end = json.JSONDecoder().raw_decode(self._received.lstrip())
            except ValueError:
                chunk = self._socket.recv(65536)
                if not chunk:
                    raise ConnectionError("the RPC connection was closed") from None
                self._received += chunk.decode()
                continue
            self._received = self._received.lstrip()[end:]
            return response
