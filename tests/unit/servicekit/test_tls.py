"""Services show each other certificates, refuse who has none, and take new ones up without a restart."""

import ast
import asyncio
import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import ValidationError

from servicekit.errors import StartupError, UnavailableError
from servicekit.rpc.client import RpcChannel
from servicekit.rpc.server import GrpcServer
from servicekit.rpc.tls import ReloadingChannel, TlsFiles
from servicekit.settings import ServiceSettings
from servicekit.testing import eventually

DAY = dt.timedelta(days=1)
SERVICES = Path(__file__).parents[3] / "services"


class Authority:
    """Signs certificates for localhost."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self._name, self._key.public_key(), is_authority=True)

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, is_authority: bool) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def issue(self, folder: Path, trusted: Sequence["Authority"]) -> TlsFiles:
        """Write a new certificate with its key, and whom its owner trusts; each file is replaced as a whole."""
        folder.mkdir(exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
        pem = serialization.Encoding.PEM
        contents = {
            "tls.crt": self._sign(subject, key.public_key(), is_authority=False).public_bytes(pem),
            "tls.key": key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
            "ca.crt": b"".join(each.certificate.public_bytes(pem) for each in trusted),
        }
        for name, content in contents.items():
            (folder / "next").write_bytes(content)
            (folder / "next").replace(folder / name)
        return TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")


def server_of(tls: TlsFiles | None) -> GrpcServer:
    return GrpcServer(host="localhost", port=0, service_names=(), register=lambda _: None, tls=tls, shutdown_grace_s=0)


async def ask(channel: RpcChannel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel.channel)  # its types lack the calls
    await channel.unary(stub.Check, health_pb2.HealthCheckRequest(), timeout_s=5.0)


async def test_both_sides_show_certificates_of_one_authority(tmp_path: Path) -> None:
    authority = Authority("ours")
    async with server_of(authority.issue(tmp_path / "server", [authority])) as server:
        tls = authority.issue(tmp_path / "client", [authority])
        async with RpcChannel(f"localhost:{server.port}", name="server", tls=tls) as channel:
            await channel.wait_ready(5.0)
            await ask(channel)


async def test_nobody_else_is_let_in(tmp_path: Path) -> None:
    ours, theirs = Authority("ours"), Authority("theirs")
    async with server_of(ours.issue(tmp_path / "server", [ours])) as server:
        target = f"localhost:{server.port}"
        stranger = theirs.issue(tmp_path / "stranger", [ours, theirs])
        for channel in (RpcChannel(target, name="server"), RpcChannel(target, name="server", tls=stranger)):
            async with channel:
                with pytest.raises(UnavailableError):
                    await ask(channel)
        anonymous = grpc.ssl_channel_credentials(ours.issue(tmp_path / "client", [ours]).authority.read_bytes())
        async with grpc.aio.secure_channel(target, anonymous) as plain:
            stub: Any = health_pb2_grpc.HealthStub(plain)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Check(health_pb2.HealthCheckRequest(), timeout=5.0)


async def test_a_server_of_another_authority_is_not_trusted(tmp_path: Path) -> None:
    ours, theirs = Authority("ours"), Authority("theirs")
    async with server_of(theirs.issue(tmp_path / "server", [ours, theirs])) as server:
        tls = ours.issue(tmp_path / "client", [ours])
        async with RpcChannel(f"localhost:{server.port}", name="server", tls=tls) as channel:
            with pytest.raises(UnavailableError):
                await ask(channel)


async def test_the_authority_can_be_replaced_while_both_run(tmp_path: Path) -> None:
    """First everybody trusts both, then everybody shows the new one, then the old one is forgotten."""
    old, new = Authority("old"), Authority("new")
    async with server_of(old.issue(tmp_path / "server", [old])) as server:
        target = f"localhost:{server.port}"
        tls = old.issue(tmp_path / "client", [old])
        async with RpcChannel(target, name="server", tls=tls) as channel:
            for signer, trusted in ((old, [old, new]), (new, [old, new]), (new, [new])):
                await ask(channel)
                signer.issue(tmp_path / "server", trusted)
                signer.issue(tmp_path / "client", trusted)
            await asyncio.sleep(1.1)  # how often a client looks
            await ask(channel)
            newcomer = new.issue(tmp_path / "newcomer", [new])
            async with RpcChannel(target, name="server", tls=newcomer) as another:
                await ask(another)
            latecomer = old.issue(tmp_path / "latecomer", [old, new])
            async with RpcChannel(target, name="server", tls=latecomer) as late:
                with pytest.raises(UnavailableError):
                    await ask(late)


async def test_a_renewed_channel_ends_after_its_last_call(tmp_path: Path) -> None:
    authority, connected = Authority("ours"), []

    async with server_of(authority.issue(tmp_path / "server", [authority])) as server:

        def connect(credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
            connected.append(grpc.aio.secure_channel(f"localhost:{server.port}", credentials))
            return connected[-1]

        channel = ReloadingChannel(authority.issue(tmp_path / "client", [authority]), connect)
        stub: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[arg-type]  # as far as a stub needs one
        watching = stub.Watch(health_pb2.HealthCheckRequest())
        await watching.read()
        authority.issue(tmp_path / "client", [authority])
        channel.renew_if_changed()
        await stub.Check(health_pb2.HealthCheckRequest())
        assert not watching.done()
        old, new = connected
        assert old.get_state() is not grpc.ChannelConnectivity.SHUTDOWN
        watching.cancel()
        await eventually(lambda: old.get_state() is grpc.ChannelConnectivity.SHUTDOWN)
        await stub.Check(health_pb2.HealthCheckRequest())
        await channel.close()
        assert new.get_state() is grpc.ChannelConnectivity.SHUTDOWN


async def test_files_that_vanish_for_a_moment_change_nothing(tmp_path: Path) -> None:
    authority = Authority("ours")
    server_files = authority.issue(tmp_path / "server", [authority])
    async with server_of(server_files) as server:
        tls = authority.issue(tmp_path / "client", [authority])
        async with RpcChannel(f"localhost:{server.port}", name="server", tls=tls) as channel:
            for files in (server_files, tls):
                files.key.unlink()
            await asyncio.sleep(1.1)
            await ask(channel)
            authority.issue(tmp_path / "server", [authority])
            authority.issue(tmp_path / "client", [authority])
            await asyncio.sleep(1.1)
            await ask(channel)


async def test_a_missing_file_is_told_in_one_line(tmp_path: Path) -> None:
    files = TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt")
    message = r"tls\.crt cannot be read: No such file or directory"
    with pytest.raises(StartupError, match=message):
        await server_of(files).start()
    with pytest.raises(StartupError, match=message):
        RpcChannel("localhost:1", name="server", tls=files)


def test_the_settings_name_all_three_files_or_none(tmp_path: Path) -> None:
    assert ServiceSettings().tls is None
    files = TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt")
    told = ServiceSettings(tls_cert_file=files.certificate, tls_key_file=files.key, tls_ca_file=files.authority)
    assert told.tls == files
    with pytest.raises(ValidationError, match="TLS_KEY_FILE"):
        ServiceSettings(tls_cert_file=tmp_path / "tls.crt", tls_ca_file=tmp_path / "ca.crt")


def test_every_service_passes_its_certificate_on() -> None:
    bootstraps = sorted(SERVICES.glob("*/bootstrap.py"))
    without, found = [], 0
    for path in bootstraps:
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in {"RpcChannel", "GrpcServer"}:
                found += 1
                if "tls" not in {keyword.arg for keyword in call.keywords}:
                    without.append(f"{path.parent.name}, line {call.lineno}")
    assert found > len(bootstraps) > 3
    assert without == []
