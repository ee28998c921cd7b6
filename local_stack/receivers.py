"""Where pages arrive on this machine: a real mail server, and a web server as Slack's and PagerDuty's would answer."""

import json
from contextlib import suppress
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Self

from local_stack.servers import LOOPBACK, free_port
from pipelines.settings import PREFIX

ROUTING_KEY = "a-routing-key-of-32-characters--"


class Receivers:
    """Both servers, on ports that stay the same while they are down; `arrived`: channel, subject and text of each."""

    def __init__(self) -> None:
        self.arrived: list[tuple[str, str, str]] = []
        self.events: list[dict[str, Any]] = []
        self._ports = free_port(), free_port()
        self._mail: Any = None
        self._web: ThreadingHTTPServer | None = None

    @property
    def variables(self) -> dict[str, str]:
        """What the environment must say for pages to arrive here."""
        mail, web = self._ports
        told = {
            "PAGE_CHANNELS": "slack,email,pagerduty",
            "SLACK_WEBHOOK_URL": f"http://{LOOPBACK}:{web}/services/T0/B0/a-secret-path",
            "SMTP_HOST": LOOPBACK,
            "SMTP_PORT": str(mail),
            "SMTP_STARTTLS": "false",
            "MAIL_FROM": "nightjar@example.com",
            "MAIL_TO": "oncall@example.com",
            "PAGERDUTY_ROUTING_KEY": ROUTING_KEY,
            "PAGERDUTY_URL": f"http://{LOOPBACK}:{web}",
        }
        return {PREFIX + name: value for name, value in told.items()}

    def start(self, channels: str = "mail web") -> Self:
        """Let what comes in."""
        from aiosmtpd.controller import Controller

        mail, web = self._ports
        if "mail" in channels:
            self._mail = Controller(_Mailbox(self), hostname=LOOPBACK, port=mail)
            self._mail.start()
        if "web" in channels:
            self._web = ThreadingHTTPServer((LOOPBACK, web), _handler(self))
            Thread(target=self._web.serve_forever, daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuse every connection, as servers that are down do."""
        if self._mail:
            self._mail.stop()
        if self._web:
            self._web.shutdown()
            self._web.server_close()
        self._mail = self._web = None

    def subjects(self, channel: str) -> list[str]:
        """What arrived on a channel, in its order."""
        return [subject for name, subject, _ in self.arrived if name == channel]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Mailbox:
    def __init__(self, receivers: Receivers) -> None:
        self._receivers = receivers

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # aiosmtpd's name
        """Take a mail."""
        mail: Any = message_from_bytes(envelope.content, policy=policy.default)
        text = mail.get_content().replace("\r\n", "\n")
        self._receivers.arrived.append(("email", " ".join(mail["Subject"].split()), text))
        return "250 taken"


def _handler(receivers: Receivers) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the library's name
            """Take a page as the service at that path would."""
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/v2/enqueue" and content["routing_key"] == ROUTING_KEY:
                receivers.events.append(content)
                text = content["payload"]["custom_details"]["text"]
                receivers.arrived.append(("pagerduty", content["payload"]["summary"], text))
                self.send_response(202)
            elif self.path.startswith("/services/"):
                subject, _, text = content["text"].partition("\n")
                receivers.arrived.append(("slack", subject.strip("*"), text))
                self.send_response(200)
            else:
                self.send_response(400)
            with suppress(ConnectionError):
                self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on the terminal."""

    return Handler
