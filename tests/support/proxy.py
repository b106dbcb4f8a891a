"""A loopback TCP proxy that can refuse, stall, slow down or cut what passes."""

import socket
import threading
import time


def end(connection):
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()


class Listener:
    """Takes connections on a free port, knows the open ones, and can cut them."""

    def __init__(self):
        self.lock = threading.Lock()
        self.open = set()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def port(self):
        return self.listener.getsockname()[1]

    def start(self):
        self.thread.start()
        return self

    def stop(self):
        end(self.listener)
        self.cut()
        self.thread.join(5)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def cut(self):
        """Reset the connections that are open."""
        with self.lock:
            victims, self.open = self.open, set()
        for victim in victims:
            end(victim)

    def keep(self, *connections):
        with self.lock:
            self.open.update(connections)

    def drop(self, *connections):
        for connection in connections:
            end(connection)
            with self.lock:
                self.open.discard(connection)

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self._serve(client)

    def _serve(self, client):
        """Begin with a new connection, without waiting for it."""
        raise NotImplementedError


class Proxy(Listener):
    """mode: "pass", "refuse" (close at once), "stall" (accept, move nothing), "slow" (delay each piece)
    or "swallow" (the target's answers vanish)."""

    def __init__(self, host, port, delay=0.0):
        super().__init__()
        self.target = (host, port)
        self.delay = delay
        self.mode = "pass"
        self.bytes_to_target = 0

    def _serve(self, client):
        if self.mode == "refuse":
            client.close()
            return
        try:
            server = socket.create_connection(self.target, 5)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        self.keep(client, server)
        for source, sink, counted in ((client, server, True), (server, client, False)):
            threading.Thread(target=self._pump, args=(source, sink, counted), daemon=True).start()

    def _pump(self, source, sink, counted):
        admit = self._gate(counted)
        try:
            while data := source.recv(65536):
                passes, last = admit(data)
                sink.sendall(passes)
                if last:
                    return
        except OSError:
            pass  # one of the ends is gone
        finally:
            self.drop(source, sink)

    def _gate(self, counted):
        """A function for one direction of a connection: what of a piece may pass, and whether the connection ends
        with it. `counted`: to the target."""

        def admit(data):
            self._linger()
            if self.mode == "swallow" and not counted:
                return b"", False
            if counted:
                with self.lock:
                    self.bytes_to_target += len(data)
            return data, False

        return admit

    def _linger(self):
        while self.mode == "stall":
            time.sleep(0.02)
        if self.mode == "slow":
            time.sleep(self.delay)
