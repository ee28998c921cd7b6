"""The registry's errors: named, and without secrets."""

import pytest
from corner_shop import SHOP

from pipelines import registry
from pipelines.errors import EngineFailure
from pipelines.settings import Settings


@pytest.mark.attack("S11")
def test_an_error_of_the_registry_does_not_show_its_password(tmp_path):
    place = "http://mlflow:a-secret-word@127.0.0.1:1/registry"
    settings = Settings(home=tmp_path, mlflow_tracking_uri=place)

    with pytest.raises(EngineFailure) as failed, registry.reaching(settings):
        registry.open_registry(settings).search_registered_models(f"name = '{SHOP.name}'")

    assert failed.value.where == "http://***@127.0.0.1:1/registry"
    assert "a-secret-word" not in str(failed.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sqlite:////home/var/mlflow.db", "sqlite:////home/var/mlflow.db"),
        ("http://127.0.0.1:5000/a@b", "http://127.0.0.1:5000/a@b"),
        ("cannot reach https://me:pw@host/x, or http://u@h", "cannot reach https://***@host/x, or http://***@h"),
    ],
)
def test_only_what_stands_before_a_host_is_hidden(text, shown):
    assert registry.without_password(text) == shown
