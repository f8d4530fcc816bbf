"""Makes what the TLS listeners of one test broker need, and what its clients need: `certificates.py FOLDER`.

    ca.pem                  the authority that signed the rest
    server.pem              key and certificate of the broker, in one file, as Kafka wants them
    client.pem, client.key  certificate and key of a client that is called `worker`

Runs with the interpreter of `.venv`, which has the package `cryptography`. The keys live as long as the folder.
"""

import datetime
import ipaddress
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def signed(name, key, issuer, issuer_key, extensions):
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def main():
    folder = Path(sys.argv[1])
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("ca", "server", "client")}
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    is_ca = [(x509.BasicConstraints(ca=True, path_length=0), True)]
    authority = signed("authority", keys["ca"], issuer, keys["ca"], is_ca)
    (folder / "ca.pem").write_bytes(authority)

    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    use = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    server = signed("broker", keys["server"], issuer, keys["ca"], [(names, False), (use, False)])
    (folder / "server.pem").write_bytes(pem(keys["server"]) + server + authority)

    use = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    client = signed("worker", keys["client"], issuer, keys["ca"], [(use, False)])
    (folder / "client.pem").write_bytes(client)
    (folder / "client.key").write_bytes(pem(keys["client"]))


if __name__ == "__main__":
    main()
