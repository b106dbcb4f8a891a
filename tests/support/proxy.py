"""A loopback TCP proxy that can refuse, stall, slow down or cut what passes."""

import socket
import threading
import time


class Proxy:
    """mode: "pass", "refuse" (close at once), "stall" (accept, move nothing), "slow" (delay each piece)
    or "swallow" (the target's answers vanish)."""

    def __init__(self, host, port, delay=0.0):
        self.target = (host, port)
        self.delay = delay
        self.mode = "pass"
        self.bytes_to_target = 0
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
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        self.cut()
        self.thread.join(5)

    def cut(self):
        """Reset the connections that are open."""
        with self.lock:
            victims, self.open = self.open, set()
        for victim in victims:
            try:
                victim.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            victim.close()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.mode == "refuse":
                client.close()
                continue
            try:
                server = socket.create_connection(self.target, 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self.lock:
                self.open |= {client, server}
            for source, sink, counted in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, sink, counted), daemon=True).start()

    def _pump(self, source, sink, counted):
        try:
            while data := source.recv(65536):
                while self.mode == "stall":
                    time.sleep(0.02)
                if self.mode == "slow":
                    time.sleep(self.delay)
                if self.mode == "swallow" and not counted:
                    continue
                if counted:
                    with self.lock:
                        self.bytes_to_target += len(data)
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                with self.lock:
                    self.open.discard(end)
                end.close()
