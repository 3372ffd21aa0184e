"""Azure Storage and Azure Batch on this machine, for whoever has no account: the one door to both."""

from .errors import LocalAzureError
from .services import LocalAzure, start
from .workspace import default_workspace, why_storage_fails

__all__ = ['LocalAzure', 'LocalAzureError', 'default_workspace', 'start', 'why_storage_fails']
