"""The Flask example does what its README says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

APP = Path(__file__).parent.parent.parent / "examples/flask/app.py"


def test_the_flask_example(monkeypatch) -> None:
    monkeypatch.setenv("CATALOGUE_STAFF_TOKEN", "staff")
    monkeypatch.setenv("CATALOGUE_ADMIN_TOKEN", "admin")
    spec = importlib.util.spec_from_file_location("flask_example", APP)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    client = example.app.test_client()

    def told(path: str, **fields: str) -> str:
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        with client.get(path, headers=headers) as response:
            assert response.status_code == 200, response.data
            return response.headers["Cache-Status"]

    for path in ("/", "/products/7", "/export", "/welcome"):
        assert ("stored" in told(path)) is (path != "/export")  # which is streamed
        assert "hit" in told(path)
    assert "stored" in told("/welcome", Accept_Language="fr")
    assert client.get("/welcome", headers={"Accept-Language": "fr"}).json["text"] == "Bienvenue !"
    assert client.get("/products/9999").status_code == 404
    best = client.get("/").json[0]["id"]
    told(f"/products/{best}")
    assert client.put(f"/products/{best}", json={"cents": 5}).status_code == 403
    staff = {"Authorization": "Bearer staff"}
    assert client.put(f"/products/{best}", json={"cents": 5}, headers=staff).status_code == 200
    assert client.get("/").json[0]["cents"] == 5  # it showed the product, and is gone too
    assert client.get(f"/products/{best}").json["cents"] == 5
    purge = {"headers": {"Authorization": "Bearer admin"}, "json": {"tags": ["export"]}}
    assert client.post("/_layergate/purge", **purge).json["success"]
    assert "hit" not in told("/export")
    example.shop._connection.close()
