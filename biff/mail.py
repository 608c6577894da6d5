# SPDX-License-Identifier: MIT
"""Mail: handed to the mail server, or printed to the console where none is configured."""

import email.errors
import email.message
import email.policy
import email.utils
import logging

import aiosmtplib

log = logging.getLogger("biff")

MAIL_S_MAX = 10                       # below REQUEST_S_MAX, so that a slow relay is told as "not sent"


HEADER_CHARS_MAX = 900                # RFC 5322 has 998; a longer word, such as an address of the web, would be encoded


async def send_mail(ctx: dict, to: str, subject: str, text: str, html: str | None = None,
                    headers: dict | None = None) -> bool:
    """True if the mail was handed over, or printed to the console where no mail server is configured."""
    config = ctx["biff/config"]
    if not config["mail_host"]:
        print(f"\nTO: {to}\nSUBJECT: {subject}\n\n{text}\n\nTo send mail instead of printing it, set "
              f"mail_host and mail_from in {config['data']}/config.toml.\n", flush=True)
        return True
    try:
        mail = _message(config, to, subject, text, html, headers)
        await aiosmtplib.send(mail, recipients=[to], **_smtp(config))
    except (aiosmtplib.SMTPException, email.errors.MessageError, OSError, ValueError, LookupError) as failure:
        log.error("Mail could not be sent by %s: %s", config["mail_host"], type(failure).__name__)
        return False
    return True


def _message(config, to, subject, text, html, headers=None):
    """Raises: ValueError if the address would become another one in the header, as an encoded word does."""
    policy = email.policy.default.clone(max_line_length=HEADER_CHARS_MAX) if headers else email.policy.default
    mail = email.message.EmailMessage(policy)
    mail["From"], mail["To"], mail["Subject"] = config["mail_from"], to, subject
    if [address.addr_spec for address in mail["To"].addresses] != [to]:
        raise ValueError("not one address")
    mail["Date"] = email.utils.localtime()
    mail["Message-ID"] = email.utils.make_msgid(domain=config["mail_from"].rpartition("@")[2].rstrip(">"))
    for name, value in (headers or {}).items():
        mail[name] = value
    mail.set_content(text)
    if html:
        mail.add_alternative(html, subtype="html")
    return mail


def _smtp(config):
    """TLS is taken where it is offered, and demanded before a password is said."""
    is_tls = config["mail_port"] == 465
    return {"hostname": config["mail_host"], "port": config["mail_port"], "username": config["mail_user"],
            "password": config["mail_password"], "timeout": MAIL_S_MAX, "use_tls": is_tls,
            "start_tls": None if is_tls or not config["mail_password"] else True}
