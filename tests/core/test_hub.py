"""Whether the hub can be reached, by a host that listens, one that does not, and one that nobody knows."""

import socket
import urllib.request

import pytest

from segrefinery.core import hub

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture(autouse=True)
def no_switches(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "getproxies", dict)


def test_a_host_that_answers_can_be_reached(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert hub.why_unreachable() is None
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert hub.why_unreachable() == "HF_HUB_OFFLINE is set"


def test_one_that_does_not_says_why(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    assert "refused" in (hub.why_unreachable() or "")
    monkeypatch.setattr(socket, "create_connection", lambda *_a, **_k: (_ for _ in ()).throw(TimeoutError("timed out")))
    assert hub.why_unreachable() == "timed out"
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "http://proxy:3128"})
    assert hub.why_unreachable() is None


def test_the_switch_is_turned_back(monkeypatch):
    def fail_within():
        with hub.from_cache_alone():
            assert constants.is_offline_mode()
            raise KeyError

    assert not constants.is_offline_mode()
    with pytest.raises(KeyError):
        fail_within()
    assert not constants.is_offline_mode()
