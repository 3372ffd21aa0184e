"""The images that the service offers: the real service's Linux list of 2026.

Seen in recorded traffic (Azure/azure-sdk-assets, list supported images, east US, February 2026).
"""

from __future__ import annotations

from typing import Any

_GENERATION_2 = ('Generation2VMImage',)
_HPC = ('DockerCompatible', 'SupportsRDMAOnly', 'IntelMPIRuntimeInstalled')
_SUBSCRIPTION = ('UserSubscriptionOnly',)
_CONFIDENTIAL = ('ConfidentialVMCompatible', *_GENERATION_2)

# publisher, offer, sku, node agent, verified, capabilities
_IMAGES = (
    ('almalinux', 'almalinux-x86_64', '8-gen1', 'batch.node.el 8', True, ()),
    ('almalinux', 'almalinux-x86_64', '8-gen2', 'batch.node.el 8', True, _GENERATION_2),
    ('almalinux', 'almalinux-x86_64', '9-gen1', 'batch.node.el 9', True, ()),
    ('almalinux', 'almalinux-x86_64', '9-gen2', 'batch.node.el 9', True, _GENERATION_2),
    ('almalinux', 'almalinux-arm', '9-arm-gen2', 'batch.node.el 9-arm64', True, _GENERATION_2),
    ('almalinux', 'almalinux-hpc', '8-hpc-gen1', 'batch.node.el 8', False, _HPC),
    ('almalinux', 'almalinux-hpc', '8-hpc-gen2', 'batch.node.el 8', False, (*_HPC, *_GENERATION_2)),
    ('canonical', '0001-com-ubuntu-server-jammy', '22_04-lts', 'batch.node.ubuntu 22.04', True, ()),
    ('canonical', '0001-com-ubuntu-server-jammy', '22_04-lts-gen2', 'batch.node.ubuntu 22.04', True, _GENERATION_2),
    ('canonical', '0001-com-ubuntu-confidential-vm-jammy', '22_04-lts-cvm', 'batch.node.ubuntu 22.04', False,
     _CONFIDENTIAL),
    ('canonical', 'ubuntu-24_04-lts', 'server', 'batch.node.ubuntu 24.04', True, _GENERATION_2),
    ('canonical', 'ubuntu-24_04-lts', 'server-gen1', 'batch.node.ubuntu 24.04', True, ()),
    ('canonical', 'ubuntu-24_04-lts', 'server-arm64', 'batch.node.ubuntu 24.04-arm64', True, _GENERATION_2),
    ('canonical', 'ubuntu-24_04-lts', 'cvm', 'batch.node.ubuntu 24.04', False, _CONFIDENTIAL),
    ('microsoft-dsvm', 'ubuntu-hpc', '2204', 'batch.node.ubuntu 22.04', False, (*_HPC, *_GENERATION_2)),
    ('microsoft-dsvm', 'ubuntu-hpc', '2204-rocm', 'batch.node.ubuntu 22.04', False, (*_HPC, *_GENERATION_2)),
    ('microsoft-dsvm', 'ubuntu-hpc', '2404', 'batch.node.ubuntu 24.04', True, (*_HPC, *_GENERATION_2)),
    ('microsoft-dsvm', 'ubuntu-hpc', '2404-arm64', 'batch.node.ubuntu 24.04-arm64', False, _GENERATION_2),
    ('microsoftcblmariner', 'azure-linux-3', 'azure-linux-3', 'batch.node.azurelinux 3.0', True, ()),
    ('microsoftcblmariner', 'azure-linux-3', 'azure-linux-3-gen2', 'batch.node.azurelinux 3.0', True, _GENERATION_2),
    ('microsoftcblmariner', 'azure-linux-3', 'azure-linux-3-arm64', 'batch.node.azurelinux 3.0-arm64', True,
     _GENERATION_2),
    *(('redhat', 'rhel', sku, 'batch.node.el 9', False, _SUBSCRIPTION) for sku in ('9_2', '9_3', '9_4', '9_5')),
    *(('redhat', 'rhel', sku, 'batch.node.el 9', False, (*_SUBSCRIPTION, *_GENERATION_2))
      for sku in ('92-gen2', '93-gen2', '94-gen2', '95-gen2')),
    ('redhat', 'rhel-raw', '9-raw', 'batch.node.el 9', False, _SUBSCRIPTION),
    ('redhat', 'rhel-raw', '9-raw-gen2', 'batch.node.el 9', False, (*_SUBSCRIPTION, *_GENERATION_2)),
    ('redhat', 'rhel-cvm', '9_4_cvm', 'batch.node.el 9', False, (*_SUBSCRIPTION, *_GENERATION_2)),
    ('resf', 'rockylinux-x86_64', '8-lvm', 'batch.node.el 8', False, _GENERATION_2),
    ('resf', 'rockylinux-x86_64', '9-base', 'batch.node.el 9', False, _GENERATION_2),
    ('resf', 'rockylinux-x86_64', '9-lvm', 'batch.node.el 9', False, _GENERATION_2),
    ('resf', 'rockylinux-aarch64', '9', 'batch.node.el 9-arm64', False, _GENERATION_2),
    ('resf', 'rockylinux-aarch64', '9-lvm', 'batch.node.el 9-arm64', False, _GENERATION_2),
)

NODE_AGENT_SKU_IDS = frozenset(image[3] for image in _IMAGES)


def supported_images() -> list[dict[str, Any]]:
    """The list as the wire has it, ImageInformation objects, each with an id besides."""
    return [{
        'id': f'{publisher}:{offer}:{sku}',
        'nodeAgentSKUId': node_agent,
        'imageReference': {'publisher': publisher, 'offer': offer, 'sku': sku, 'version': 'latest'},
        'osType': 'linux',
        'capabilities': list(capabilities),
        'verificationType': 'verified' if verified else 'unverified',
    } for publisher, offer, sku, node_agent, verified, capabilities in _IMAGES]


def offers(image: dict[str, Any], node_agent_sku_id: str) -> bool:
    """Whether this image goes with this node agent, without regard to case."""
    wanted = tuple(str(image.get(part, '')).lower() for part in ('publisher', 'offer', 'sku'))
    return any(tuple(part.lower() for part in known[:3]) == wanted and known[3] == node_agent_sku_id
               for known in _IMAGES)
