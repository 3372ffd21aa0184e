from __future__ import annotations

import pytest

from .client import Refused


def test_supported_images_are_listed(client) -> None:
    images = client.list_supported_images()
    server, = [image for image in images if image['imageReference'] == {
        'publisher': 'canonical', 'offer': 'ubuntu-24_04-lts', 'sku': 'server', 'version': 'latest'}]
    assert (server['nodeAgentSKUId'], server['osType'], server['verificationType']) == (
        'batch.node.ubuntu 24.04', 'linux', 'verified')


def test_supported_images_can_be_filtered(client) -> None:
    images = client.list_supported_images(filter="verificationType eq 'unverified'")
    assert {image['verificationType'] for image in images} == {'unverified'}
    assert client.list_supported_images(filter="verificationType eq 'verified' and osType ne 'linux'") == []
    with pytest.raises(Refused, match='^400 InvalidQueryParameterValue'):
        client.list_supported_images(filter="publisher eq 'canonical'")


def test_supported_images_come_in_pages(client) -> None:
    assert client.list_supported_images(max_results=2) == client.list_supported_images()
