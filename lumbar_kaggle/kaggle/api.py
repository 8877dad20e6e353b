"""Two variants of the client's class: one that counts uploads, one that sends nothing.

Importing this imports `kaggle`, which tries to sign in at once; `client` keeps its advice silent.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kaggle.api.kaggle_api_extended import KaggleApi
from kaggle.models.upload_file import UploadFile

from lumbar_kaggle.core.errors import InputError


class CountingApi(KaggleApi):  # type: ignore[misc]
    """The client, but a file that fails to go up stops the version, in every release.

    kaggle 2.2.4 goes on without the file and makes a version that lacks it.
    """

    expected_files = 0

    def upload_files(self, request: Any, *args: Any, **kwargs: Any) -> None:
        """Upload the folder's files; then check that each of them has arrived.

        Raises:
            InputError: one has not, so no version may be made.
        """
        super().upload_files(request, *args, **kwargs)
        if len(request.files) != self.expected_files:
            raise InputError(
                f"only {len(request.files)} of {self.expected_files} files were uploaded, so no version was "
                "made; run the same command again, it goes on with what is missing"
            )


class DryApi(CountingApi):
    """The client's very code up to the network, where each request is told instead of sent.

    Args:
        owner: stands for the signed-in account; no credentials are read.
        tell: receives one line per request.
    """

    def __init__(self, owner: str, tell: Callable[[str], None]) -> None:
        super().__init__()
        self.config_values = {self.CONFIG_NAME_USER: owner}
        self.tell = tell

    def build_kaggle_client(self) -> Any:
        """Return the SDK's client with its network taken out."""
        client = super().build_kaggle_client()
        client.http_client().call = self._tell_call
        return client

    def dataset_status(self, dataset: str, format: Any = None) -> str:
        """Say that there is no such dataset, as before its first version."""
        import requests

        raise requests.exceptions.HTTPError(f"{dataset}: not asked for in a dry run")

    def _upload_file(self, file_name: str, full_path: str, blob_type: Any, *args: Any) -> Any:
        stat = Path(full_path).stat()
        body = {
            "type": blob_type.name,
            "name": file_name,
            "contentLength": stat.st_size,
            "lastModifiedEpochSeconds": int(stat.st_mtime),
        }
        self.tell(f"POST blobs.BlobApiService/StartBlobUpload {json.dumps(body)}")
        self.tell(f"PUT {full_path} ({stat.st_size:,} bytes)")
        upload = UploadFile()
        upload.token = f"token of {file_name}"
        return upload

    def _tell_call(self, service: str, method: str, request: Any, response_type: Any) -> Any:
        self.tell(f"POST {service}/{method} {json.dumps(request.__class__.to_dict(request))}")
        answer = response_type()
        for name, value in (("status", "ok"), ("version_number", 1), ("url", "dry run")):
            if hasattr(answer, name):
                setattr(answer, name, value)
        return answer
