"""An S3 server for the tests of storage."""

from tests.testing.s3_server import bucket, client, moto, proxy

__all__ = ["bucket", "client", "moto", "proxy"]
