"""The channels that carry pages to people: a webhook of Slack's kind, mail, PagerDuty."""

import smtplib
import ssl
from collections.abc import Callable
from datetime import datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime

import httpx

from pipelines.paging import Message
from pipelines.settings import Settings

_TIMEOUT_S = 5
_DELAY = timedelta(minutes=2)  # what arrives later says that it was kept


def send(settings: Settings, channel: str, message: Message, at: datetime) -> str:
    """Hand the message to a channel; gives what kept it from taking it, in words without secrets, or nothing."""
    try:
        _SENDERS[channel](settings, message, at)
    except httpx.HTTPStatusError as error:
        return f"it answers {error.response.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:  # smtplib's errors are OSErrors
        code = getattr(error, "smtp_code", "")
        return f"{type(error).__name__} {code}".strip()
    return ""


def subject(message: Message) -> str:
    """The message in one line."""
    return f"[Nightjar] {'resolved: ' if message.is_resolved else ''}{message.page.what}"


def body(settings: Settings, message: Message, at: datetime) -> str:
    """The message as text: what to know, then what to do, then where to look."""
    page, zone = message.page, settings.zone
    since = f"{message.since.astimezone(zone):%Y-%m-%d %H:%M %Z}"
    if message.is_resolved:
        return f"Over at {message.at.astimezone(zone):%H:%M %Z}, open since {since}. It was: {page.cause}\n"
    lines = {
        "Cause": page.cause,
        "Readers": page.meaning,
        "Remedy": page.remedy,
        "Runbook": f"{settings.runbook_url}#{page.runbook}",
        "Log": page.log_url,
        "Owner": page.owner,
        "Since": since,
        "Note": f"kept {(at - message.at).seconds // 60} minutes, as this channel was down"
        if at - message.at > _DELAY
        else "",
    }
    return "".join(f"{name + ':':9} {text}\n" for name, text in lines.items() if text)


def _post(url: str, content: object) -> None:
    httpx.post(url, json=content, timeout=_TIMEOUT_S).raise_for_status()


def _slack(settings: Settings, message: Message, at: datetime) -> None:
    text = f"*{_plain(subject(message))}*\n{_plain(body(settings, message, at))}"
    _post(settings.slack_webhook_url.get_secret_value(), {"text": text})


def _plain(text: str) -> str:
    """The text as Slack shows it letter by letter: nobody is called by what stands in an error."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _email(settings: Settings, message: Message, at: datetime) -> None:
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = subject(message), settings.mail_from, settings.mail_to
    mail["Message-ID"], mail["Date"] = f"<{message.id}@nightjar>", format_datetime(message.at)
    mail.set_content(body(settings, message, at))
    with smtplib.SMTP(settings.smtp_host, settings.smtp_port, timeout=_TIMEOUT_S) as server:
        if settings.smtp_starttls:
            server.starttls(context=ssl.create_default_context())
        if settings.smtp_user:
            server.login(settings.smtp_user, settings.smtp_password.get_secret_value())
        server.send_message(mail)


def _pagerduty(settings: Settings, message: Message, at: datetime) -> None:
    page = message.page
    event = {
        "routing_key": settings.pagerduty_routing_key.get_secret_value(),
        "event_action": "resolve" if message.is_resolved else "trigger",
        "dedup_key": page.key[:255],
        "payload": {
            "summary": subject(message)[:1024],
            "source": "nightjar",
            "severity": page.severity,
            "component": page.use_case or None,
            "timestamp": message.since.isoformat(),
            "custom_details": {"text": body(settings, message, at)},
        },
        "links": [{"href": page.log_url, "text": "Log"}] if page.log_url else [],
    }
    _post(f"{settings.pagerduty_url.rstrip('/')}/v2/enqueue", event)


_SENDERS: dict[str, Callable[[Settings, Message, datetime], None]] = {
    "slack": _slack,
    "email": _email,
    "pagerduty": _pagerduty,
}
