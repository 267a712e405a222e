"""Certificates for tests: an authority of the test's own, made in memory, and files as the `[tls]` section wants them."""

import datetime

import attrs
import trustme


@attrs.frozen
class Files:
    """What a server is given: paths of PEM files."""

    certificate: object
    key: object


class Authority:
    """A certificate authority that nobody knows but the test; `below` another one, or one of its own."""

    def __init__(self, *, below=None):
        self._ca = trustme.CA() if below is None else below._ca.create_child_ca()

    @property
    def pem(self):
        return self._ca.cert_pem.bytes()

    def write(self, path):
        """Write its own certificate to a file: for clients, or for `tls.client_ca`."""
        path.write_bytes(self.pem)
        return path

    def trust(self, context):
        """Let an `ssl.SSLContext` believe its certificates."""
        self._ca.configure_trust(context)

    def issue(self, *names, common_name=None, begins_in_days=None, ends_in_days=None):
        """A certificate with its key, for hosts and addresses (server) or under a common name (client)."""
        today = datetime.datetime.now(datetime.UTC)
        more = {}
        if begins_in_days is not None:
            more["not_before"] = today + datetime.timedelta(days=begins_in_days)
        if ends_in_days is not None:
            more["not_after"] = today + datetime.timedelta(days=ends_in_days)
        return self._ca.issue_cert(*names, common_name=common_name, **more)

    def server_files(self, folder, name="server", *, hosts=("localhost", "127.0.0.1", "::1"), **dates):
        """Files of a new server certificate, `NAME.pem` and `NAME.key`; replaces older ones of that name."""
        return self._write(self.issue(*hosts, **dates), folder, name)

    def client_files(self, folder, common_name, **dates):
        """Files of a new client certificate under this common name."""
        return self._write(self.issue(common_name=common_name, **dates), folder, f"client-{common_name}")

    @staticmethod
    def _write(issued, folder, name):
        files = Files(folder / f"{name}.pem", folder / f"{name}.key")
        files.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        files.key.touch(mode=0o600)
        files.key.write_bytes(issued.private_key_pem.bytes())
        return files
