"""Engines by their dotted paths, the paths and names of the release before included."""

import importlib
import logging
import sys

import pytest

from engines import install, registry
from engines.base import Engine, LaunchCommand, MemoryEstimate
from engines.install import InstallStatus
from engines.llamacpp import LlamaCppEngine
from engines.vllm import VllmEngine


@pytest.fixture
def named(settings):
    """named(*paths) are the engines of these paths by name."""

    def load(*paths: str) -> dict[str, Engine]:
        settings.ENGINE_ADAPTERS = list(paths)
        registry.engines.cache_clear()
        return registry.engines()

    yield load
    registry.engines.cache_clear()


@pytest.fixture
def fresh_imports():
    """Modules of the old paths are imported anew, so that they warn."""
    before = {name: module for name, module in sys.modules.items() if name.startswith("inference.engines.")}
    for name in [*before, "tests.fakes.old_engine"]:
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    yield
    sys.modules.update(before)


def test_the_old_paths_of_our_engines_work_and_the_log_names_the_new_ones(named, caplog):
    with caplog.at_level(logging.WARNING):
        found = named("inference.engines.vllm.VllmAdapter", "inference.engines.llamacpp.LlamaCppAdapter")
    assert [type(engine) for engine in found.values()] == [VllmEngine, LlamaCppEngine]
    assert list(found) == ["vllm", "llama.cpp"]
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "SERAI_ENGINE_ADAPTERS names inference.engines.vllm.VllmAdapter, which is now engines.vllm.VllmEngine",
        "SERAI_ENGINE_ADAPTERS names inference.engines.llamacpp.LlamaCppAdapter, which is now "
        "engines.llamacpp.LlamaCppEngine",
    ]


def test_an_operators_engine_of_old_paths_and_names_works(named, caplog, fresh_imports):
    with caplog.at_level(logging.WARNING):
        engine = named("tests.fakes.old_engine.OldEngine")["old"]
    assert isinstance(engine, Engine) and engine.unavailable_reason() == "It rests."
    assert isinstance(engine.estimate(None, None, "cpu"), MemoryEstimate)
    assert isinstance(engine.command(None), LaunchCommand)
    assert engine.readings("").running == 1
    assert engine.diagnose(["boom"]).meaning == "It went boom."
    told = [record.getMessage() for record in caplog.records]
    assert "inference.engines.base has moved: import from engines.base" in told
    assert "tests.fakes.old_engine.OldEngine: subclass engines.base.Engine, not EngineAdapter" in told


def test_an_engine_that_refines_ours_by_its_old_name_works(named, monkeypatch):
    monkeypatch.setattr(install, "status", lambda engine: InstallStatus(engine, install.READY))
    found = named("tests.fakes.old_engine.OldVllm", "tests.fakes.old_engine.OldLlama")
    assert isinstance(found["old vllm"], VllmEngine) and isinstance(found["old llama"], LlamaCppEngine)
    assert found["old vllm"].unavailable_reason() == "It rests, too."
    assert found["old llama"].unavailable_reason() is None


def test_new_paths_log_nothing(named, caplog):
    with caplog.at_level(logging.WARNING):
        assert list(named("engines.vllm.VllmEngine")) == ["vllm"]
    assert caplog.records == []
