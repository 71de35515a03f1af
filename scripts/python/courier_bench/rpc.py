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
        self._last_id += 1
        request = {"jsonrpc": "2.0", "id": self._last_id, "method": method}
        if params:
            request["params"] = params
        self._socket.settimeout(timeout)
        self._socket.sendall(json.dumps(request).encode())
        response = self._receive()
        if "error" in response:
            raise RpcError(method, response["error"])
        return response["result"]

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
