"""Files that are complete or absent, on this machine and in S3 buckets. Only this package may import `boto3`."""

from coat_core.storage.local import (
    copy_tree,
    iterate_jsonl,
    new_file,
    new_folder,
    read_json,
    read_jsonl,
    sha256_bytes,
    sha256_file,
    sha256_json,
    sha256_tree,
    write_bytes,
    write_json,
    write_jsonl,
    write_text,
)

__all__ = [
    "copy_tree",
    "iterate_jsonl",
    "new_file",
    "new_folder",
    "read_json",
    "read_jsonl",
    "sha256_bytes",
    "sha256_file",
    "sha256_json",
    "sha256_tree",
    "write_bytes",
    "write_json",
    "write_jsonl",
    "write_text",
]
