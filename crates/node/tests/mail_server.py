"""A mail server for tests, made of aiosmtpd.

mail_server.py DIRECTORY plain|starttls|tls [CERTIFICATE KEY] [USER PASSWORD]

Listens on 127.0.0.1 and prints its port. Each mail that it takes becomes a file NUMBER.json of the directory: `from`, `to`, `user`, `tls`
and `data`. Addresses that begin with `never` are refused for good, those that begin with `later` only once.
"""

import asyncio
import json
import os
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

directory, mode = sys.argv[1:3]
certificate, key, user, password = (sys.argv[3:] + [None] * 4)[:4]


class Handler:
    def __init__(self):
        self.count = 0
        self.told_later = set()

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("never"):
            return "550 5.1.1 nobody of that name"
        if address.startswith("later") and address not in self.told_later:
            self.told_later.add(address)
            return "451 4.7.1 greylisted, come again"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        self.count += 1
        mail = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "user": getattr(session, "auth_data", None) and session.auth_data.decode(),
            "tls": session.ssl is not None or mode == "tls",
            "data": envelope.content.decode("utf-8", "surrogateescape"),
        }
        path = os.path.join(directory, f"{self.count}.json")
        with open(path + ".part", "w", encoding="utf-8") as file:
            json.dump(mail, file)
        os.rename(path + ".part", path)
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    if not isinstance(data, LoginPassword):
        return AuthResult(success=False, handled=False)
    good = data.login == user.encode() and data.password == password.encode()
    return AuthResult(success=good, handled=False, auth_data=data.login)


async def main():
    context = None
    if mode != "plain":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    handler = Handler()

    def factory():
        return SMTP(
            handler,
            hostname="mail.test",
            enable_SMTPUTF8=True,
            tls_context=context if mode == "starttls" else None,
            require_starttls=mode == "starttls",
            authenticator=authenticate if user else None,
            auth_required=user is not None,
            auth_require_tls=mode == "starttls",
        )

    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=context if mode == "tls" else None)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
